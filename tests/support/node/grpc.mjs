// gRPC calls with raw bytes (no generated code), plaintext; prints what came as JSON.
// Usage: node grpc.mjs --target HOST:PORT --method /pkg.Service/Method
//          [--kind unary|server|client|bidi] [--authority NAME] [--metadata 'name: value']...
//          [--message TEXT]... [--deadline-ms N]
// grpc-js itself goes through a proxy with CONNECT when grpc_proxy or http_proxy is set.
import { parseArgs } from "node:util";
import grpc from "@grpc/grpc-js";

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    method: { type: "string" },
    kind: { type: "string", default: "unary" },
    authority: { type: "string" },
    metadata: { type: "string", multiple: true, default: [] },
    message: { type: "string", multiple: true, default: ["hello"] },
    "deadline-ms": { type: "string", default: "10000" },
  },
});

const bytes = (value) => Buffer.from(value);
const channelOptions = values.authority ? { "grpc.default_authority": values.authority } : {};
const client = new grpc.Client(values.target, grpc.credentials.createInsecure(), channelOptions);
const metadata = new grpc.Metadata();
for (const line of values.metadata) {
  const colon = line.indexOf(":");
  metadata.add(line.slice(0, colon), line.slice(colon + 1).trim());
}
const options = { deadline: Date.now() + Number(values["deadline-ms"]) };
const result = { code: null, details: "", messages: [], headers: {}, trailers: {} };

function begin(done) {
  const [path, first] = [values.method, values.message[0]];
  switch (values.kind) {
    case "unary":
      return client.makeUnaryRequest(path, bytes, bytes, first, metadata, options, done);
    case "server":
      return client.makeServerStreamRequest(path, bytes, bytes, first, metadata, options);
    case "client":
      return client.makeClientStreamRequest(path, bytes, bytes, metadata, options, done);
    case "bidi":
      return client.makeBidiStreamRequest(path, bytes, bytes, metadata, options);
    default:
      throw new Error(`unknown kind: ${values.kind}`);
  }
}

const take = (message) => result.messages.push(message.toString("latin1"));
const call = begin((error, message) => {
  if (!error) take(message);
});
call.on("metadata", (headers) => (result.headers = headers.getMap()));
call.on("status", (status) => {
  result.code = status.code;
  result.details = status.details;
  result.trailers = status.metadata.getMap();
  setImmediate(() => {
    console.log(JSON.stringify(result));
    client.close();
  });
});
if (values.kind === "server" || values.kind === "bidi") {
  call.on("data", take);
  call.on("error", () => {}); // the status event tells it all
}
if (values.kind === "client" || values.kind === "bidi") {
  for (const message of values.message) call.write(message);
  call.end();
}
