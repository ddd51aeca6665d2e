// Command goget makes one GET with net/http as every Go program does: proxy and trust come from the
// environment (HTTPS_PROXY, SSL_CERT_FILE). It prints protocol, status and body as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"protocol": answer.Proto, "status": answer.StatusCode, "body": string(body),
	})
}
