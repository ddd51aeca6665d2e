-- Run as: lua credential_cache_test.lua PATH_OF_THE_SCRIPT DIRECTORY_OF_THIS_FILE

local script, directory = arg[1], arg[2]
package.path = directory .. "/?.lua;" .. package.path
local envoy = require("envoy")
local HOST = "svc.example"
local tests, names = {}, {}

local function test(name, body)
  tests[name] = body
  table.insert(names, name)
end

local function equal(found, expected)
  if found ~= expected then
    error(("found %s, expected %s"):format(tostring(found), tostring(expected)), 2)
  end
end

local function answer(changes)
  local metadata = {
    route = "tls", cache_seconds = 10, authority = HOST .. ":443", header = "authorization",
    value = "Bearer secret-1", remove = "x-serverless-authorization", token_id = "id-1",
  }
  for key, value in pairs(changes or {}) do
    if value == "absent" then value = nil end
    metadata[key] = value
  end
  return function() return metadata end
end

local function get(authority, ...)
  return { { ":authority", authority or HOST }, ... }
end

local function ok()
  return { { ":status", "200" } }
end

local function refused()
  return { { ":status", "401" }, { "www-authenticate", 'Bearer error="invalid_token"' } }
end

-- One request that asks and its answer kept.
local function fill(changes, ...)
  local stream = envoy.request(get(HOST, ...), answer(changes))
  equal(stream.asked, true)
  envoy.response(stream, ok())
  return stream
end

test("a request without an entry is left alone and asks", function()
  local stream = envoy.request(get(), answer())
  equal(stream.asked, true)
  equal(stream.request:get("authorization"), nil)
  equal(stream.request:get(":authority"), HOST)
end)

test("the next one gets the whole answer", function()
  fill()
  local stream = envoy.request(get())
  equal(stream.hit, true)
  equal(stream.request:get("authorization"), "Bearer secret-1")
  equal(stream.request:get(":authority"), HOST .. ":443")
end)

test("an answer that may not be kept is not kept", function()
  for _, changes in ipairs({
    { cache_seconds = "absent" }, { cache_seconds = 0 }, { cache_seconds = -1 }, { value = "absent" },
    { authority = "absent" }, { header = "absent" }, { route = "plain" }, { cache_seconds = "x" },
  }) do
    fill(changes)
    equal(envoy.request(get()).asked, true)
  end
end)

test("no answer at all keeps nothing", function()
  envoy.response(envoy.request(get()), { { ":status", "503" } })
  equal(envoy.request(get()).asked, true)
end)

test("an entry is served to its end and never after", function()
  fill({ cache_seconds = 4 })
  envoy.time = envoy.time + 2.9
  equal(envoy.request(get()).hit, true)
  envoy.time = envoy.time + 1.1
  equal(envoy.request(get()).asked, true)
end)

test("shortly before its end one request asks and the others are served", function()
  fill({ cache_seconds = 4 })
  envoy.time = envoy.time + 3.5
  equal(envoy.request(get()).asked, true)
  equal(envoy.request(get()).hit, true)
end)

test("a refusal ends what was kept before", function()
  fill({ cache_seconds = 4 })
  envoy.time = envoy.time + 3.5
  local stream = envoy.request(get(), function() end)
  equal(envoy.request(get()).hit, true)
  envoy.response(stream, { { ":status", "403" } })
  equal(envoy.request(get()).asked, true)
end)

test("a late response does not undo a later answer", function()
  local slow = envoy.request(get(), answer({ token_id = "id-0", value = "Bearer older" }))
  envoy.time = envoy.time + 8
  fill()
  envoy.response(slow, ok())
  equal(envoy.request(get()).request:get("authorization"), "Bearer secret-1")
  envoy.time = envoy.time + 8.5
  equal(envoy.request(get()).hit, true)
end)

test("never more than ten seconds, whatever the service says", function()
  fill({ cache_seconds = 3600 })
  envoy.time = envoy.time + 10
  equal(envoy.request(get()).asked, true)
end)

test("the seconds count from the question, not from the response", function()
  local stream = envoy.request(get(), answer({ cache_seconds = 5 }))
  envoy.time = envoy.time + 5
  envoy.response(stream, ok())
  equal(envoy.request(get()).asked, true)
end)

test("without a clock nothing is kept", function()
  local clock = now
  now = function() end
  fill()
  equal(envoy.request(get()).asked, true)
  now = clock
  equal(envoy.request(get()).asked, true)
end)

test("the header that the decision depends on has an entry of its own", function()
  fill()
  for _, value in ipairs({ "", "Bearer app" }) do
    equal(envoy.request(get(HOST, { "authorization", value })).asked, true)
  end
  for _, name in ipairs({ "cookie", "x-serverless-authorization", "proxy-authorization" }) do
    equal(envoy.request(get(HOST, { name, "Bearer app" })).hit, true)
  end
end)

test("an app's own proxy-authorization asks where that is the header to be set", function()
  local own = { "proxy-authorization", "Basic app" }
  for _, first in ipairs({ {}, own }) do
    fill({ header = "proxy-authorization", token_id = "id-2" }, first)
    equal(envoy.request(get(HOST, own)).asked, true)
    equal(envoy.request(get(HOST, own)).request:get("proxy-authorization"), "Basic app")
    local stream = envoy.request(get(HOST))
    equal(stream.hit, true)
    equal(stream.request:get("proxy-authorization"), "Bearer secret-1")
    envoy.response(stream, refused())
  end
end)

test("another spelling of the host is another entry", function()
  fill()
  for _, host in ipairs({ "SVC.example", "svc.example.", "svc.example:443", "-" .. HOST, "" }) do
    equal(envoy.request(get(host)).asked, true)
  end
end)

test("the app's own header stays where the service says so", function()
  fill({ header = "x-serverless-authorization", remove = "" }, { "authorization", "Bearer app" })
  local stream = envoy.request(get(HOST, { "authorization", "Bearer app" }))
  equal(stream.request:get("authorization"), "Bearer app")
  equal(stream.request:get("x-serverless-authorization"), "Bearer secret-1")
end)

test("headers to remove are removed, however often they came", function()
  local own = { "x-serverless-authorization", "Bearer forged" }
  fill({}, own)
  local stream = envoy.request(get(HOST, own, own))
  equal(stream.hit, true)
  equal(stream.request:get("x-serverless-authorization"), nil)
end)

test("a script that fails half-way leaves no mark", function()
  fill()
  for _, name in ipairs({ ":authority", "authorization" }) do
    local list = get()
    list.fail_on = name
    local stream = envoy.request(list, answer())
    assert(stream.error)
    equal(stream.asked, true)
  end
end)

test("a refused token is forgotten under every key, and the service is told", function()
  local own = { "authorization", "Bearer app" }
  fill()
  fill({ header = "x-serverless-authorization", remove = "" }, own)
  envoy.response(envoy.request(get()), refused())
  equal(#envoy.calls, 1)
  equal(envoy.calls[1].cluster, "ext_authz")
  equal(envoy.calls[1].headers[":path"], "/idtoken_sidecar.v1.Sidecar/TokenRefused")
  equal(envoy.calls[1].body, "\0\0\0\0\4id-1")
  assert(envoy.calls[1].timeout <= 1000)
  equal(envoy.request(get()).asked, true)
  equal(envoy.request(get(HOST, own)).asked, true)
end)

test("the answer to a refused request is not kept, and another token stays", function()
  fill({ token_id = "id-2" }, { "authorization", "x" })
  envoy.response(envoy.request(get(), answer()), refused())
  equal(envoy.calls[1].body, "\0\0\0\0\4id-1")
  equal(envoy.request(get()).asked, true)
  equal(envoy.request(get(HOST, { "authorization", "x" })).hit, true)
end)

test("with the cache off a refused token is still told", function()
  envoy.response(envoy.request(get(), answer({ cache_seconds = "absent", value = "absent" })), refused())
  equal(#envoy.calls, 1)
end)

test("the token that was sent is told, not the one that came meanwhile", function()
  fill()
  local stream = envoy.request(get())
  envoy.time = envoy.time + 9.5
  fill({ token_id = "id-2" })
  envoy.response(stream, refused())
  equal(envoy.calls[1].body, "\0\0\0\0\4id-1")
  equal(envoy.request(get()).hit, true)
end)

test("other refusals drop nothing", function()
  fill()
  for _, response in ipairs({
    { { ":status", "401" } },
    { { ":status", "401" }, { "www-authenticate", "Bearer" } },
    { { ":status", "403" }, { "www-authenticate", 'Bearer error="invalid_token"' } },
  }) do
    envoy.response(envoy.request(get()), response)
  end
  equal(#envoy.calls, 0)
  equal(envoy.request(get()).hit, true)
end)

test("a refusal on a way without a token is none of ours", function()
  envoy.response(envoy.request(get(), answer({ route = "plain" })), refused())
  equal(#envoy.calls, 0)
end)

test("redirects are put to the service, from a hit as from a miss", function()
  envoy.reply = "http://other.example/x"
  for _ = 1, 2 do
    local stream = envoy.request(get(), answer())
    local response = envoy.response(stream, { { ":status", "302" }, { "location", "https://other.example/x" } })
    equal(response:get("location"), "http://other.example/x")
    local call = table.remove(envoy.calls)
    equal(call.headers[":path"], "/idtoken_sidecar.v1.Sidecar/RewriteRedirect")
    equal(call.body:sub(6), "forward\n" .. HOST .. "\nhttps://other.example/x")
  end
  equal(envoy.request(get()).hit, true)
end)

test("in each of the three headers only the URL is replaced", function()
  envoy.reply = "http://new/"
  for before, after in pairs({
    ["5; url=https://a/"] = "5; url=http://new/",
    ["0;URL='HTTPS://a/b'"] = "0;URL='http://new/'",
    ['5, url = "https://a/";x'] = '5, url = "http://new/";x',
    ["5"] = "5",
    ["5; url=http://a/?u=https://b/"] = "5; url=http://a/?u=https://b/",
  }) do
    local list = { { ":status", "200" }, { "refresh", before } }
    equal(envoy.response(envoy.request(get(), answer()), list):get("refresh"), after)
  end
  local list = { { ":status", "201" }, { "location", "https://a/1" }, { "content-location", "https://a/2" } }
  local response = envoy.response(envoy.request(get(), answer()), list)
  equal(response:get("location"), "http://new/")
  equal(response:get("content-location"), "http://new/")
end)

test("what the service does not know, or nobody can answer, stays", function()
  for _, reply in ipairs({ false, "", "http://a/\r\nx: y", "two words" }) do
    envoy.reply = reply or nil
    local list = { { ":status", "302" }, { "location", "https://other.example/" } }
    equal(envoy.response(envoy.request(get(), answer()), list):get("location"), "https://other.example/")
  end
end)

test("relative and cleartext redirects cost no question", function()
  for _, url in ipairs({ "/x", "http://a/?u=https://b/", "//a/" }) do
    envoy.response(envoy.request(get(), answer()), { { ":status", "302" }, { "location", url } })
  end
  equal(#envoy.calls, 0)
end)

test("a long message has its length in its prefix", function()
  local url = "https://a/" .. ("x"):rep(700)
  envoy.response(envoy.request(get(), answer()), { { ":status", "302" }, { "location", url } })
  local body = envoy.calls[1].body
  equal(body:byte(4) * 256 + body:byte(5), #body - 5)
end)

test("the number of entries is bounded, and the newest are there", function()
  for number = 1, 20000 do
    envoy.response(envoy.request(get("h" .. number), answer()), ok())
  end
  local hits = 0
  for number = 1, 20000 do
    hits = hits + (envoy.request(get("h" .. number)).hit and 1 or 0)
  end
  assert(hits >= 8192 and hits <= 16384, hits)
  equal(envoy.request(get("h20000")).hit, true)
end)

test("an overlong authority is neither kept nor looked up", function()
  local long = ("a"):rep(301)
  envoy.response(envoy.request(get(long), answer()), ok())
  equal(envoy.request(get(long)).asked, true)
end)

local failed = 0
for _, name in ipairs(names) do
  dofile(script)                      -- a fresh cache for each test
  assert(now() == nil or now() <= now())
  envoy.time, envoy.calls, envoy.reply = 1000, {}, nil
  now = function() return envoy.time end
  local passed, problem = xpcall(tests[name], debug.traceback)
  if not passed then
    failed = failed + 1
    print(("FAILED %s: %s"):format(name, problem))
  end
end
print(("%d tests, %d failed"):format(#names, failed))
os.exit(failed == 0 and 0 or 1)
