package libssl_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// exampleServer and exampleClient are Contexts that suit each other.
func exampleServer() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	if err == nil {
		err = ctx.UseCertificatePEM(exampleCertificate())
	}
	if err != nil {
		log.Fatal(err)
	}
	return ctx
}

func exampleClient() *libssl.Context {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err == nil {
		cert, _ := exampleCertificate()
		err = ctx.AddRootCAsPEM(cert)
	}
	if err != nil {
		log.Fatal(err)
	}
	return ctx
}

var exampleCertificate = sync.OnceValues(func() (cert, key []byte) { return tlstest.SelfSigned("localhost", "127.0.0.1") })

// exampleServe says hello to each client until stop.
func exampleServe(ctx *libssl.Context) (addr string, stop func()) {
	l, err := libssl.Listen("tcp", "127.0.0.1:0", ctx)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.(*libssl.Conn).SessionOrigin())
			conn.Close()
		}
	}()
	return l.Addr().String(), func() { l.Close() }
}

// exampleVisit offers a session, unless it is nil, and returns the one for the next visit. A client has it only when it has read:
// TLS 1.3 tickets come with the data.
func exampleVisit(addr string, ctx *libssl.Context, offer *libssl.Session) (next *libssl.Session, resumed bool) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := libssl.Client(nc, ctx, "localhost")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if offer != nil {
		if err := conn.SetSession(offer); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := io.ReadAll(conn); err != nil {
		log.Fatal(err)
	}
	if next, err = conn.Session(); err != nil {
		log.Fatal(err)
	}
	return next, conn.SessionReused()
}

// A server that sends back what it receives. A connection that Accept returns has completed its handshake.
func ExampleListen() {
	server := exampleServer()
	defer server.Close()
	l, err := libssl.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()

	client := exampleClient()
	defer client.Close()
	conn, err := libssl.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	conn.CloseWrite()
	answer, err := io.ReadAll(conn)
	fmt.Printf("%s %v\n", answer, err)
	// Output: hello <nil>
}

// Two servers with one store. Between processes it would be a store that they share, and with it a ring of keys.
func ExampleContext_UseStore() {
	sessions := memstore.New(memstore.Options{})
	var addrs []string
	for range 2 {
		server := exampleServer()
		defer server.Close()
		cache, err := server.UseStore(sessions, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer cache.Close(context.Background())
		addr, stop := exampleServe(server)
		defer stop()
		addrs = append(addrs, addr)
	}

	client := exampleClient()
	defer client.Close()
	first, resumed := exampleVisit(addrs[0], client, nil)
	defer first.Release()
	fmt.Println("at the first server, resumed:", resumed)
	second, resumed := exampleVisit(addrs[1], client, first)
	defer second.Release()
	fmt.Println("at the second server, resumed:", resumed)
	// Output:
	// at the first server, resumed: false
	// at the second server, resumed: true
}

// The three callbacks of a table of sessions, as a C server has them. The table has one reference to each session.
func ExampleContext_SetSessGetCallback() {
	server := exampleServer()
	defer server.Close()
	server.SetSessionIDContext([]byte("example"))
	server.SetOptions(libssl.OpNoTicket) // tickets would hold the sessions, and the callbacks see nothing
	server.SetSessionCacheMode(libssl.CacheServer | libssl.CacheNoInternal)

	var mu sync.Mutex
	sessions := map[libssl.SessionID]*libssl.Session{}
	server.SetSessNewCallback(func(_ *libssl.SSL, s *libssl.Session) bool {
		mu.Lock()
		defer mu.Unlock()
		sessions[s.ID()] = s
		return true // the reference is ours
	})
	server.SetSessGetCallback(func(_ *libssl.SSL, id libssl.SessionID) (*libssl.Session, libssl.CopyFlag) {
		mu.Lock()
		defer mu.Unlock()
		if s := sessions[id]; s != nil {
			if answer, err := s.Dup(); err == nil {
				return answer, libssl.Transfer // the reference is OpenSSL's
			}
		}
		return nil, libssl.Copy
	})
	server.SetSessRemoveCallback(func(_ *libssl.Context, s *libssl.Session) {
		mu.Lock()
		defer mu.Unlock()
		if ours := sessions[s.ID()]; ours != nil {
			ours.Release()
			delete(sessions, s.ID())
		}
	})

	client := exampleClient()
	defer client.Close()
	addr, stop := exampleServe(server)
	first, _ := exampleVisit(addr, client, nil)
	second, resumed := exampleVisit(addr, client, first)
	stop()
	fmt.Println("resumed:", resumed)

	for _, s := range []*libssl.Session{first, second} {
		s.Release()
	}
	mu.Lock()
	defer mu.Unlock()
	for _, s := range sessions {
		s.Release()
	}
	// Output: resumed: true
}

// A client whose connections resume by themselves.
func ExampleContext_UseClientCache() {
	server := exampleServer()
	defer server.Close()
	addr, stop := exampleServe(server)
	defer stop()

	client := exampleClient()
	defer client.Close()
	if err := client.UseClientCache(1000); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		conn, err := libssl.Dial("tcp", addr, client)
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, conn) // tickets come with the data
		fmt.Println(conn.SessionReused())
		conn.Close()
	}
	// Output:
	// false
	// true
}

// All sessions of a full handshake end at once, for example when its user logs out.
func ExampleSessionCache_Revoke() {
	server := exampleServer()
	defer server.Close()
	cache, err := server.UseStore(memstore.New(memstore.Options{}), &libssl.StoreOptions{Revocable: true})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(context.Background())
	l, err := libssl.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	origins := make(chan libssl.SessionOrigin, 3)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			origins <- conn.(*libssl.Conn).SessionOrigin()
			conn.Close()
		}
	}()

	client := exampleClient()
	defer client.Close()
	first, _ := exampleVisit(l.Addr().String(), client, nil)
	defer first.Release()
	origin := <-origins
	second, resumed := exampleVisit(l.Addr().String(), client, first)
	defer second.Release()
	fmt.Println("resumed:", resumed, "of the same handshake:", <-origins == origin)

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := cache.Revoke(ctx, origin); err != nil {
		log.Fatal(err)
	}
	third, resumed := exampleVisit(l.Addr().String(), client, second)
	defer third.Release()
	fmt.Println("resumed after Revoke:", resumed)
	// Output:
	// resumed: true of the same handshake: true
	// resumed after Revoke: false
}

// A server with a certificate for each name. The callback may ask a database: the handshake is parked meanwhile.
func ExampleContext_SetCertificateCallback() {
	server, err := libssl.NewContext(libssl.ServerRole)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	client, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	certificates := map[string]*libssl.Certificate{}
	for _, name := range []string{"a.example", "b.example"} {
		certPEM, keyPEM := tlstest.SelfSigned(name)
		if certificates[name], err = libssl.ParseCertificate(certPEM, keyPEM, nil); err != nil {
			log.Fatal(err)
		}
		defer certificates[name].Close()
		if err := client.AddRootCAsPEM(certPEM); err != nil {
			log.Fatal(err)
		}
	}
	err = server.SetCertificateCallback(func(_ context.Context, h *libssl.ClientHello) (*libssl.Certificate, error) {
		if cert := certificates[h.ServerName]; cert != nil {
			return cert, nil
		}
		return nil, fmt.Errorf("no certificate for %q", h.ServerName)
	})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := exampleServe(server)
	defer stop()

	for _, name := range []string{"a.example", "b.example"} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			log.Fatal(err)
		}
		conn, err := libssl.Client(nc, client, name)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(conn.ConnectionState().PeerCertificates[0].Subject)
		conn.Close()
	}
	// Output:
	// CN=a.example
	// CN=b.example
}
