package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/bench/rig"
	"github.com/libssl-go/libssl/store/memstore"
)

// The four kinds of handshake; bench/yardstick/yardstick.c has the same ones.
var modes = []string{"full12", "full13", "res12id", "res13st"}

func version(mode string) uint16 {
	if mode == "full12" || mode == "res12id" {
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}

func resumes(mode string) bool { return mode == "res12id" || mode == "res13st" }

// certificate makes what every server here shows: a small self-signed P-256 certificate.
func certificate() (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

var oneByte = []byte{'x'}

// tlsConn is what the halves of a handshake need of either implementation.
type tlsConn interface {
	net.Conn
	Handshake() error
}

// serve is the server's half of a handshake, given the connection made over nc.
func serve(c tlsConn, err error) error {
	if err != nil {
		return err
	}
	if err := c.Handshake(); err != nil {
		return err
	}
	if _, err := c.Write(oneByte); err != nil {
		return err
	}
	return c.Close()
}

// ---- libssl ----

// libsslContexts makes a server's and a client's Context for one mode. A server that resumes has no
// callbacks yet.
func libsslContexts(mode string, cert, key []byte) (server, client *libssl.Context, err error) {
	if server, err = libsslContext(libssl.ServerRole, mode); err != nil {
		return nil, nil, err
	}
	if err := server.UseCertificatePEM(cert, key); err != nil {
		return nil, nil, err
	}
	if version(mode) == tls.VersionTLS12 || resumes(mode) {
		server.SetOptions(libssl.OpNoTicket)
	}
	if client, err = libsslContext(libssl.ClientRole, mode); err != nil {
		return nil, nil, err
	}
	return server, client, client.SetVerify(libssl.VerifyNone)
}

func libsslContext(role libssl.Role, mode string) (*libssl.Context, error) {
	c, err := libssl.NewContext(role)
	if err != nil {
		return nil, err
	}
	c.SetSessionCacheMode(libssl.CacheOff)
	return c, errors.Join(
		c.SetVersions(version(mode), version(mode)),
		// X25519 is what gets used; a TLS 1.2 client must name the curve of the certificate too.
		c.SetGroups("X25519:P-256"),
		c.SetCiphers("ECDHE-ECDSA-AES128-GCM-SHA256"),
		c.SetCipherSuites("TLS_AES_128_GCM_SHA256"),
	)
}

// libsslStack is libssl on both ends, resuming through UseStore and a memstore.
func libsslStack(mode string, cert, key []byte) (rig.Stack, error) {
	server, client, err := libsslContexts(mode, cert, key)
	if err != nil {
		return rig.Stack{}, err
	}
	if resumes(mode) {
		if _, err := server.UseStore(memstore.New(memstore.Options{}), nil); err != nil {
			return rig.Stack{}, err
		}
	}
	return libsslHalves(server, client, resumes(mode)), nil
}

func libsslHalves(server, client *libssl.Context, resume bool) rig.Stack {
	return rig.Stack{
		Serve: func(nc net.Conn) error { return serve(libssl.Server(nc, server)) },
		NewClient: func() func(net.Conn) error {
			var session *libssl.Session
			var buf [1]byte
			return func(nc net.Conn) error {
				c, err := libssl.Client(nc, client, "localhost")
				if err != nil {
					return err
				}
				if session != nil {
					if err := c.SetSession(session); err != nil {
						return err
					}
				}
				if err := c.Handshake(); err != nil {
					return err
				}
				if _, err := io.ReadFull(c, buf[:]); err != nil {
					return err
				}
				switch {
				case session != nil:
					if !c.SessionReused() {
						return errNotResumed
					}
				case resume:
					if session, err = c.Session(); err != nil {
						return err
					}
				}
				return c.Close()
			}
		},
	}
}

var errNotResumed = errors.New("not resumed")

// ---- crypto/tls ----

// cryptoConfigs makes configurations that agree on what libsslContexts agrees on. crypto/tls has no
// session ids, so a server that resumes keeps its sessions in a map and sends the key to it as the
// ticket.
func cryptoConfigs(mode string, cert, key []byte) (server, client *tls.Config, err error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, err
	}
	common := tls.Config{
		MinVersion: version(mode), MaxVersion: version(mode),
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
	}
	server, client = common.Clone(), common.Clone()
	server.Certificates = []tls.Certificate{pair}
	server.SessionTicketsDisabled = mode == "full12"
	client.InsecureSkipVerify = true
	client.ServerName = "localhost"
	if resumes(mode) {
		var sessions sync.Map
		server.WrapSession = func(_ tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
			id := make([]byte, 32)
			rand.Read(id)
			b, err := s.Bytes()
			sessions.Store(string(id), b)
			return id, err
		}
		server.UnwrapSession = func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
			b, ok := sessions.Load(string(id))
			if !ok {
				return nil, nil
			}
			return tls.ParseSessionState(b.([]byte))
		}
	}
	return server, client, nil
}

func cryptoStack(mode string, cert, key []byte) (rig.Stack, error) {
	server, client, err := cryptoConfigs(mode, cert, key)
	if err != nil {
		return rig.Stack{}, err
	}
	return cryptoHalves(server, client, resumes(mode)), nil
}

func cryptoHalves(server, client *tls.Config, resume bool) rig.Stack {
	return rig.Stack{
		Serve: func(nc net.Conn) error { return serve(tls.Server(nc, server), nil) },
		NewClient: func() func(net.Conn) error {
			conf := client.Clone()
			var session firstSession
			if resume {
				conf.ClientSessionCache = &session
			}
			var buf [1]byte
			return func(nc net.Conn) error {
				primed := session.s != nil
				c := tls.Client(nc, conf)
				if err := c.Handshake(); err != nil {
					return err
				}
				if _, err := io.ReadFull(c, buf[:]); err != nil {
					return err
				}
				if primed && !c.ConnectionState().DidResume {
					return errNotResumed
				}
				return c.Close()
			}
		},
	}
}

// firstSession is a client's cache that keeps the first session it is given, because the other
// clients resume one session again and again too.
type firstSession struct{ s *tls.ClientSessionState }

func (f *firstSession) Get(string) (*tls.ClientSessionState, bool) { return f.s, f.s != nil }

func (f *firstSession) Put(_ string, s *tls.ClientSessionState) {
	if f.s == nil {
		f.s = s
	}
}

// ---- clients with a cache ----

func libsslCaching(mode string, cert, key []byte) func(net.Conn) error {
	_, client, err := libsslContexts(mode, cert, key)
	if err == nil {
		err = client.UseClientCache(10)
	}
	return caching(func(nc net.Conn) (tlsConn, error) {
		if err != nil {
			return nil, err
		}
		return libssl.Client(nc, client, "localhost")
	}, func(c tlsConn) bool { return c.(*libssl.Conn).SessionReused() })
}

func cryptoCaching(config *tls.Config) func(net.Conn) error {
	config = config.Clone()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	return caching(func(nc net.Conn) (tlsConn, error) { return tls.Client(nc, config), nil },
		func(c tlsConn) bool { return c.(*tls.Conn).ConnectionState().DidResume })
}

// caching is the client's half where the cache does the rest.
func caching(open func(nc net.Conn) (tlsConn, error), resumed func(c tlsConn) bool) func(net.Conn) error {
	primed := false
	var buf [1]byte
	return func(nc net.Conn) error {
		c, err := open(nc)
		if err != nil {
			return err
		}
		if err := c.Handshake(); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return err
		}
		if primed && !resumed(c) {
			return errNotResumed
		}
		primed = true
		return c.Close()
	}
}

// ---- established connections ----

// connected returns both ends of a handshaken TLS 1.3 connection over loopback TCP.
func connected(implementation string, cert, key []byte) (server, client net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	below, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	above, err := l.Accept()
	if err != nil {
		return nil, nil, err
	}
	var s, c tlsConn
	if implementation == "libssl" {
		sc, cc, err := libsslContexts("full13", cert, key)
		if err != nil {
			return nil, nil, err
		}
		if s, err = libssl.Server(above, sc); err != nil {
			return nil, nil, err
		}
		if c, err = libssl.Client(below, cc, "localhost"); err != nil {
			return nil, nil, err
		}
	} else {
		// One suite for TLS 1.3 can't be asked for: on machines with AES instructions it is this one.
		sc, cc, err := cryptoConfigs("full13", cert, key)
		if err != nil {
			return nil, nil, err
		}
		s, c = tls.Server(above, sc), tls.Client(below, cc)
	}
	served := make(chan error, 1)
	go func() { served <- s.Handshake() }()
	return s, c, errors.Join(c.Handshake(), <-served)
}

// opensslRelease is the first digit of libssl.Version(), "OpenSSL 3.0.19 ...".
func opensslRelease() int {
	for i, v := 0, libssl.Version(); i < len(v); i++ {
		if v[i] >= '0' && v[i] <= '9' {
			n, _ := strconv.Atoi(v[i : i+1])
			return n
		}
	}
	return 0
}
