package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/tlstest"
)

// customer visits one lane's servers, one after the other, as often as not with the session of the last visit.
type customer struct {
	*fleet
	lane *lane
	sess *libssl.Session
}

func (c *customer) drop() {
	c.sess.Release()
	c.sess = nil
}

// breaking is a transport that ends after so many bytes sent.
type breaking struct {
	net.Conn
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.Conn.Write(p)
	}
	b.Conn.Write(p[:b.left])
	b.left = 0
	b.Conn.Close()
	return 0, io.ErrClosedPipe
}

// How a visit ends.
const (
	politely      = iota
	cut           // the client's transport breaks, in the handshake or soon after it
	givenUp       // the server's handshake is given up
	serverAborts  // after the handshake
	clientForgets // its session, for the collector to find
)

func (c *customer) visit() {
	end := politely
	if rand.IntN(8) == 0 {
		end = 1 + rand.IntN(clientForgets)
	}
	cn, sn, err := tlstest.SocketPair()
	if err != nil {
		panic(err)
	}
	defer cn.Close()
	defer sn.Close()
	s, err := libssl.Server(sn, c.lane.current.Load())
	if errors.Is(err, libssl.ErrClosed) { // replaced this moment
		return
	} else if err != nil {
		panic(err)
	}
	defer s.Close()
	transport := cn
	if end == cut {
		transport = &breaking{Conn: cn, left: rand.IntN(1500)}
	}
	k, err := libssl.Client(transport, c.client(c.lane.version), serverName)
	if err != nil {
		panic(err)
	}
	defer k.Close()
	deadline := time.Now().Add(patience)
	k.SetDeadline(deadline)
	s.SetDeadline(deadline)
	offered := c.sess != nil && rand.IntN(4) > 0
	if offered {
		if err := k.SetSession(c.sess); err != nil {
			panic(err)
		}
	}

	served := make(chan error, 1)
	go func() { served <- c.serve(s, end) }()
	clientErr := c.ask(k, offered)
	if clientErr != nil {
		cn.Close()
	}
	c.account(k, s, offered, end, clientErr, <-served)
	var both sync.WaitGroup
	both.Go(func() { k.Close() })
	if end == serverAborts {
		s.Abort()
	} else {
		s.Close()
	}
	both.Wait()
}

// account counts the visit and, after a good one, takes over the client's session.
func (c *customer) account(k, s *libssl.Conn, offered bool, end int, clientErr, serverErr error) {
	switch {
	case clientErr == nil && serverErr == nil:
		if k.SessionReused() != s.SessionReused() {
			c.n.fail("%s: client resumed %v, server %v", c.lane.name, k.SessionReused(), s.SessionReused())
		}
		if k.SessionReused() {
			c.n.resumed.Add(1)
			c.lane.resumed.Add(1)
		} else {
			c.n.full.Add(1)
			c.lane.full.Add(1)
		}
		if end != politely && end != clientForgets {
			c.n.aborted.Add(1)
		}
		c.next(k, end)
	case end == cut || end == givenUp:
		c.n.aborted.Add(1)
	default:
		c.n.fail("%s, offered %v: client %v, server %v", c.lane.name, offered, clientErr, serverErr)
	}
}

var question, answer = []byte("a question"), []byte("the answer")

// serve answers one question.
func (c *customer) serve(s *libssl.Conn, end int) (err error) {
	defer func() {
		if err != nil {
			s.NetConn().Close()
		}
	}()
	var got []byte
	for c.lane.early {
		b := make([]byte, len(question)+1)
		n, err := s.ReadEarlyData(b)
		if got = append(got, b[:n]...); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("early data: %w", err)
		}
	}
	if len(got) > 0 {
		c.n.early.Add(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if end == givenUp {
		stop := time.AfterFunc(rand.N(3*time.Millisecond), cancel)
		defer stop.Stop()
	}
	if err := s.HandshakeContext(ctx); err != nil {
		return err
	}
	rest := make([]byte, max(0, len(question)-len(got)))
	if _, err := io.ReadFull(s, rest); err != nil {
		return err
	}
	if got = append(got, rest...); string(got) != string(question) {
		return fmt.Errorf("%w: %q", errOtherData, got)
	}
	_, err = s.Write(answer)
	return err
}

func (c *customer) ask(k *libssl.Conn, offered bool) (err error) {
	rest := question
	if c.lane.early && offered {
		n, err := k.WriteEarlyData(question)
		if err != nil && !errors.Is(err, libssl.ErrUnsupported) { // not every session allows it
			return err
		}
		if err := k.Handshake(); err != nil {
			return err
		}
		if k.EarlyDataAccepted() {
			rest = question[n:]
		}
	}
	if _, err := k.Write(rest); err != nil {
		return err
	}
	b := make([]byte, len(answer))
	if _, err := io.ReadFull(k, b); err != nil {
		return err
	}
	if string(b) != string(answer) {
		return fmt.Errorf("%w: %q", errOtherData, b)
	}
	return nil
}

var errOtherData = errors.New("data that the other end did not send")

// next keeps the session for the next visit.
func (c *customer) next(k *libssl.Conn, end int) {
	if end == clientForgets && c.sess != nil {
		c.n.forgotSessions.Add(1)
	} else {
		c.sess.Release()
	}
	c.sess = nil
	sess, err := k.Session()
	if err != nil {
		c.n.fail("%s: %v", c.lane.name, err)
		return
	}
	if !sess.Resumable() {
		sess.Release() // no ticket has come
		return
	}
	c.sess = sess
}
