// Sends the same request at a fixed rate, whatever the answers take, and measures each latency from the time when the
// request was due. A server that falls behind therefore shows it, which a client hides that waits for an answer before
// it sends the next request.
//
// Requests are due at even distances and shared out over the connections in turn. A request whose connection still
// waits for an answer is sent late; one that isn't answered at the end counts with the time that it has waited.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

type result struct {
	Due      int     `json:"due"`      // requests that were due after the warm-up
	Answered int     `json:"answered"` // with 2xx
	Refused  int     `json:"refused"`  // with another status
	Late     int     `json:"late"`     // not answered at the end
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50"` // milliseconds, as all latencies
	P99      float64 `json:"p99"`
	Max      float64 `json:"max"`
}

type connection struct {
	result
	latencies []time.Duration
	err       error
}

func main() {
	target := flag.String("url", "", "to send to")
	rate := flag.Float64("rate", 1000, "requests per second")
	seconds := flag.Float64("seconds", 3, "how long requests are due, without the warm-up")
	warm := flag.Float64("warm", 0.5, "seconds before the first request that counts")
	count := flag.Int("connections", 256, "")
	kind := flag.String("type", "application/json", "content type")
	body := flag.String("body", "", "file with the body")
	flag.Parse()
	request, address, err := prepare(*target, *kind, *body)
	if err != nil {
		log.Fatal(err)
	}
	connections := make([]connection, *count)
	counted := duration(*warm)
	end := duration(*warm + *seconds)
	distance := duration(1 / *rate)
	var group sync.WaitGroup
	ready := make([]net.Conn, *count)
	for number := range ready {
		if ready[number], err = net.Dial("tcp", address); err != nil {
			log.Fatal(err)
		}
	}
	start := time.Now()
	for number := range connections {
		group.Go(func() {
			own := &connections[number]
			first, step := distance*time.Duration(number), distance*time.Duration(*count)
			own.err = own.run(ready[number], request, start, first, step, counted, end)
		})
	}
	group.Wait()
	total := result{Seconds: *seconds}
	var latencies []time.Duration
	for number := range connections {
		own := &connections[number]
		if own.err != nil {
			log.Fatal(own.err)
		}
		total.Due += own.Due
		total.Answered += own.Answered
		total.Refused += own.Refused
		total.Late += own.Late
		latencies = append(latencies, own.latencies...)
	}
	slices.Sort(latencies)
	if last := len(latencies) - 1; last >= 0 {
		at := func(share float64) float64 {
			return float64(latencies[min(last, int(share*float64(last+1)))]) / 1e6
		}
		total.P50, total.P99, total.Max = at(0.5), at(0.99), at(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(total); err != nil {
		log.Fatal(err)
	}
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * 1e9) }

// prepare returns the bytes of the request and the address to send them to.
func prepare(target, kind, file string) ([]byte, string, error) {
	parsed, err := url.Parse(target)
	if err != nil {
		return nil, "", err
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "POST %s HTTP/1.1\r\nHost: %s\r\n", parsed.RequestURI(), parsed.Host)
	fmt.Fprintf(&request, "Content-Type: %s\r\nContent-Length: %d\r\n\r\n", kind, len(body))
	request.Write(body)
	return request.Bytes(), parsed.Host, nil
}

// run sends what is due on one connection; times are those since the start.
func (c *connection) run(conn net.Conn, request []byte, start time.Time, first, step, counted, end time.Duration) error {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 4096)
	if err := conn.SetReadDeadline(start.Add(end)); err != nil {
		return err
	}
	for due := first; due < end; due += step {
		time.Sleep(due - time.Since(start))
		counts := due >= counted
		if counts {
			c.Due++
		}
		if time.Since(start) >= end {
			c.late(counts, end-due)
			continue // not sent, and what is due after it neither
		}
		if _, err := conn.Write(request); err != nil {
			return err
		}
		status, err := answer(reader)
		if isTimeout(err) {
			c.late(counts, end-due)
			continue
		}
		if err != nil {
			return err
		}
		if !counts {
			continue
		}
		if status/100 == 2 {
			c.Answered++
			c.latencies = append(c.latencies, time.Since(start)-due)
		} else {
			c.Refused++
		}
	}
	return nil
}

func (c *connection) late(counts bool, waited time.Duration) {
	if counts {
		c.Late++
		c.latencies = append(c.latencies, waited)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

var length = []byte("content-length:")

// answer reads one response and returns its status.
func answer(reader *bufio.Reader) (int, error) {
	line, err := reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("not a status line: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, err
	}
	size := 0
	for {
		if line, err = reader.ReadSlice('\n'); err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if len(line) > len(length) && bytes.EqualFold(line[:len(length)], length) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(line[len(length):]))); err != nil {
				return 0, err
			}
		}
	}
	_, err = io.CopyN(io.Discard, reader, int64(size))
	return status, err
}
