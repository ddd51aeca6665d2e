// Goload asks one proxy for many destinations over HTTP/1.1 and prints one line of JSON. It does
// what h2load cannot: a Host per request, and a new connection per request. It talks to loopback
// only and ends by itself, at the latest after -timeout.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	address, hosts string
	first, count   int
	requests       int64
	clients        int
	close          bool
	deadline       time.Time
}

type result struct {
	Requests int         `json:"requests"`
	Errors   int         `json:"errors"`
	Seconds  float64     `json:"seconds"`
	P50      float64     `json:"p50_us"`
	P99      float64     `json:"p99_us"`
	Statuses map[int]int `json:"statuses"`
}

// One connection at a time; asks for the destinations whose numbers `next` hands out.
type client struct {
	options   *options
	next      *atomic.Int64
	conn      net.Conn
	reader    *bufio.Reader
	latencies []time.Duration
	statuses  map[int]int
	errors    int
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "", "the proxy, on loopback")
	flag.StringVar(&o.hosts, "hosts", "", "destination with one %d verb for its number")
	flag.IntVar(&o.first, "first", 0, "number of the first destination")
	flag.IntVar(&o.count, "count", 1, "how many destinations, asked for in turn")
	flag.Int64Var(&o.requests, "requests", 1000, "how many requests in all")
	flag.IntVar(&o.clients, "clients", 32, "how many connections at once")
	flag.BoolVar(&o.close, "close", false, "a new connection for each request")
	timeout := flag.Duration("timeout", time.Minute, "when to give up")
	flag.Parse()
	host, _, err := net.SplitHostPort(o.address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		log.Fatal("-address: expected a loopback address with a port")
	}
	o.deadline = time.Now().Add(*timeout)
	json.NewEncoder(os.Stdout).Encode(run(&o))
}

func run(o *options) result {
	var next atomic.Int64
	var group sync.WaitGroup
	clients := make([]*client, o.clients)
	start := time.Now()
	for i := range clients {
		clients[i] = &client{options: o, next: &next, statuses: map[int]int{}}
		group.Add(1)
		go func() { defer group.Done(); clients[i].work() }()
	}
	group.Wait()
	return sum(clients, time.Since(start))
}

func (c *client) work() {
	for time.Now().Before(c.options.deadline) {
		number := c.next.Add(1) - 1
		if number >= c.options.requests {
			break
		}
		host := fmt.Sprintf(c.options.hosts, c.options.first+int(number)%c.options.count)
		start := time.Now()
		status, err := c.ask(host)
		if err != nil {
			c.errors++
			c.hangUp()
			continue
		}
		c.latencies = append(c.latencies, time.Since(start))
		c.statuses[status]++
	}
	c.hangUp()
}

func (c *client) ask(host string) (int, error) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.options.address, 5*time.Second)
		if err != nil {
			return 0, err
		}
		conn.SetDeadline(c.options.deadline)
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	last := ""
	if c.options.close {
		last = "Connection: close\r\n"
	}
	if _, err := fmt.Fprintf(c.conn, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n", host, last); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if response.Close || c.options.close {
		c.hangUp()
	}
	return response.StatusCode, err
}

func (c *client) hangUp() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func sum(clients []*client, took time.Duration) result {
	all := []time.Duration{}
	r := result{Seconds: took.Seconds(), Statuses: map[int]int{}}
	for _, c := range clients {
		all = append(all, c.latencies...)
		r.Errors += c.errors
		for status, n := range c.statuses {
			r.Statuses[status] += n
			if status != 200 {
				r.Errors += n
			}
		}
	}
	slices.Sort(all)
	r.Requests = len(all)
	if len(all) > 0 {
		r.P50 = float64(all[len(all)/2]) / 1e3
		r.P99 = float64(all[len(all)*99/100]) / 1e3
	}
	return r
}
