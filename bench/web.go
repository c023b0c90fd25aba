package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
	"github.com/libssl-go/libssl/sslhttp"
)

func (s *session) webRows() (rows []row) {
	ratio := 1.15
	if opensslRelease() >= 4 || strings.Contains(libssl.Version(), "3.5") {
		ratio = 1
	}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, size := range []int{1, 64} { // KB
			rows = append(rows, row{fmt.Sprintf("%s, answers of %d KB: the server's CPU against crypto/tls", proto, size), target(ratio), nil, false,
				func() (measured, error) { return s.web(proto, size) }})
		}
	}
	return rows
}

// web compares what a request costs the server on connections that are kept alive. The clients are another process, the
// same for both servers: crypto/tls.
func (s *session) web(proto string, size int) (measured, error) {
	var sides [2]func() (float64, error)
	for i, serve := range []func(*http.Server, net.Listener) error{s.serveLibssl, s.serveCrypto} {
		side, end, err := s.webSide(serve, proto, size)
		if err != nil {
			return measured{}, err
		}
		defer end()
		sides[i] = side
	}
	m, err := s.inTurns(sides[0], sides[1])
	m.Detail += " us"
	return m, err
}

// webSide starts a server and its clients, and returns what takes a sample of them.
func (s *session) webSide(serve func(*http.Server, net.Listener) error, proto string, size int) (side func() (float64, error), end func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	body := make([]byte, size<<10)
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body) // a client that fails says so itself
	})}
	go serve(srv, l) // ends with the clients' complaint, or with srv.Close
	self, err := os.Executable()
	if err != nil {
		return nil, nil, errors.Join(err, srv.Close(), l.Close())
	}
	clients, err := rig.StartCoProcess(self, []string{"child", "web-client", l.Addr().String(), proto, strconv.Itoa(len(body))}, nil)
	if err != nil {
		return nil, nil, errors.Join(err, srv.Close(), l.Close())
	}
	side = func() (float64, error) {
		cpu := rig.CPUTime()
		answer, err := clients.Ask(s.sample.String())
		cpu = rig.CPUTime() - cpu
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(answer)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("the clients say %q", answer)
		}
		return float64(cpu.Nanoseconds()) / 1e3 / float64(n), nil
	}
	_, err = side() // the connections are made
	return side, func() { clients.Close(); srv.Close() }, err
}

func (s *session) serveLibssl(srv *http.Server, l net.Listener) error {
	ctx, _, err := libsslContexts("full13", s.cert, s.key)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return sslhttp.Serve(srv, libssl.NewListener(l, ctx))
}

func (s *session) serveCrypto(srv *http.Server, l net.Listener) (err error) {
	if srv.TLSConfig, _, err = cryptoConfigs("full13", s.cert, s.key); err != nil {
		return errors.Join(err, l.Close())
	}
	return srv.ServeTLS(l, "", "")
}

// webClient reads durations, line by line, and answers how many requests it made in that time.
func webClient(addr, proto string, size int) error {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2:   proto == "HTTP/2.0",
		MaxIdleConnsPerHost: inFlight,
	}}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		d, err := time.ParseDuration(lines.Text())
		if err != nil {
			return err
		}
		var n atomic.Int64
		var failed atomic.Pointer[error]
		var all sync.WaitGroup
		for range inFlight {
			all.Go(func() {
				for until := time.Now().Add(d); time.Now().Before(until); n.Add(1) {
					if err := fetch(client, "https://"+addr+"/", proto, size); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		all.Wait()
		if err := failed.Load(); err != nil {
			return *err
		}
		fmt.Println(n.Load())
	}
	return nil
}

func fetch(client *http.Client, url, proto string, size int) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.Proto != proto || n != int64(size) {
		err = errors.Join(err, fmt.Errorf("%d bytes in %s", n, resp.Proto))
	}
	return errors.Join(err, resp.Body.Close())
}
