// Command goclient makes one gRPC call with raw bytes (no generated code) over a plaintext
// channel and prints what came as JSON. grpc-go goes through a proxy with CONNECT by itself
// when HTTPS_PROXY is set; -passthrough dials the target directly all the same.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// result is what the program prints.
type result struct {
	Code     int         `json:"code"`
	Details  string      `json:"details"`
	Messages []string    `json:"messages"`
	Headers  metadata.MD `json:"headers"`
	Trailers metadata.MD `json:"trailers"`
}

// repeated collects a flag given several times.
type repeated []string

func (r *repeated) String() string         { return strings.Join(*r, ",") }
func (r *repeated) Set(value string) error { *r = append(*r, value); return nil }

// rawCodec passes messages through as bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = rawCodec{}

func main() {
	var messages, headers repeated
	target := flag.String("target", "", "host:port to dial")
	method := flag.String("method", "", "/package.Service/Method")
	kind := flag.String("kind", "unary", "unary, server, client or bidi")
	authority := flag.String("authority", "", "the :authority, if not the target's")
	direct := flag.Bool("passthrough", false, "ignore proxy variables")
	deadline := flag.Duration("deadline", 10*time.Second, "time limit of the call")
	flag.Var(&messages, "message", "a message to send; may be repeated")
	flag.Var(&headers, "metadata", "'name: value'; may be repeated")
	flag.Parse()
	if len(messages) == 0 {
		messages = repeated{"hello"}
	}

	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	if *direct {
		options = append(options, grpc.WithNoProxy())
	}
	ctx, cancel := context.WithTimeout(withMetadata(context.Background(), headers), *deadline)
	defer cancel()
	out, err := call(ctx, *target, *method, *kind, messages, options)
	if err != nil {
		out.Code, out.Details = int(status.Code(err)), status.Convert(err).Message()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func withMetadata(ctx context.Context, lines []string) context.Context {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		ctx = metadata.AppendToOutgoingContext(ctx, name, strings.TrimSpace(value))
	}
	return ctx
}

// call makes one call; every kind is a stream on the wire, so one code path serves them all.
func call(
	ctx context.Context, target, method, kind string, messages []string, options []grpc.DialOption,
) (out result, err error) {
	out = result{Messages: []string{}}
	connection, err := grpc.NewClient(target, options...)
	if err != nil {
		return out, err
	}
	defer connection.Close()
	description := &grpc.StreamDesc{
		ClientStreams: kind == "client" || kind == "bidi",
		ServerStreams: kind == "server" || kind == "bidi",
	}
	stream, err := connection.NewStream(ctx, description, method)
	if err != nil {
		return out, err
	}
	defer func() {
		out.Headers, _ = stream.Header()
		out.Trailers = stream.Trailer()
	}()
	if !description.ClientStreams {
		messages = messages[:1]
	}
	if err := sendAll(stream, messages); err != nil {
		return out, err
	}
	return out, receiveAll(stream, description.ServerStreams, &out)
}

func sendAll(stream grpc.ClientStream, messages []string) error {
	for _, message := range messages {
		data := []byte(message)
		if err := stream.SendMsg(&data); err == io.EOF {
			return nil // the server ended the call: its status comes with the receiving side
		} else if err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

func receiveAll(stream grpc.ClientStream, many bool, out *result) error {
	for {
		var data []byte
		err := stream.RecvMsg(&data)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		out.Messages = append(out.Messages, string(data))
		if !many {
			return nil
		}
	}
}
