// Goproxy is what a careful Go programmer would write in half an hour: httputil.ReverseProxy in
// front of one HTTPS upstream, adding a fixed header. It is a contender of the benchmark.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	upstream := flag.String("upstream", "", "host:port, reached over TLS on loopback")
	caFile := flag.String("ca", "", "PEM file that the upstream's certificate is verified with")
	token := flag.String("token", "", "value of the Authorization header")
	http2 := flag.Bool("http2", false, "speak HTTP/2 to the upstream")
	flag.Parse()

	transport, err := transportTo(*upstream, *caFile, *http2)
	if err != nil {
		log.Fatal(err)
	}
	target := &url.URL{Scheme: "https", Host: *upstream}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.Out.Header.Set("Authorization", *token)
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: proxy, Protocols: protocols}
	log.Fatal(server.Serve(listener))
}

func transportTo(upstream, caFile string, http2 bool) (*http.Transport, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	_, port, err := net.SplitHostPort(upstream)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort("127.0.0.1", port)
	return &http.Transport{
		// Names under .localhost are loopback; Go would ask a DNS server.
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2:   http2,
		MaxIdleConnsPerHost: 256, // the default, 2, would open a connection per request
		DisableCompression:  true,
	}, nil
}
