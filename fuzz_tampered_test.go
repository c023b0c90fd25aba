package libssl_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

// edit changes one place of a stream.
type edit struct {
	server bool // edit the bytes of the server
	at     int  // in all that is sent
	kind   byte
	with   []byte
}

const (
	editChange = iota // these bytes are XORed
	editInsert
	editDrop // as many bytes
	editEnd  // the stream ends
	editKinds
)

// line joins two ends that never write and read at once. It ends when each waits for the other, as they do after
// bytes were dropped, so no test has to wait for a deadline.
type line struct {
	mu      sync.Mutex
	cond    *sync.Cond
	sent    [2][]byte // to each end
	waiting int
	ended   bool
}

type lineEnd struct {
	nowhere
	*line
	of int
}

func newLine() (*line, [2]lineEnd) {
	l := &line{}
	l.cond = sync.NewCond(&l.mu)
	return l, [2]lineEnd{{line: l, of: 0}, {line: l, of: 1}}
}

func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.cond.Broadcast()
}

func (e lineEnd) Close() error {
	e.end()
	return nil
}

func (e lineEnd) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.sent[e.of]) == 0 {
		if e.ended {
			return 0, io.EOF
		}
		if e.waiting == 1 && len(e.sent[1-e.of]) == 0 {
			e.ended = true
			e.cond.Broadcast()
			continue
		}
		e.waiting++
		e.cond.Wait()
		e.waiting--
	}
	n := copy(p, e.sent[e.of])
	e.sent[e.of] = e.sent[e.of][n:]
	return n, nil
}

func (e lineEnd) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return 0, io.ErrClosedPipe
	}
	e.sent[1-e.of] = append(e.sent[1-e.of], p...)
	e.cond.Broadcast()
	return len(p), nil
}

// edited is a transport that edits what is written to it.
type edited struct {
	net.Conn
	edit
	sent    int
	changed bool
}

func (e *edited) Write(p []byte) (int, error) {
	at := e.at - e.sent
	e.sent += len(p)
	if at < 0 || at >= len(p) || len(e.with) == 0 {
		return e.Conn.Write(p)
	}
	head, tail := bytes.Clone(p[:at]), bytes.Clone(p[at:])
	n := min(len(e.with), len(tail))
	switch e.kind {
	case editChange:
		for i, b := range e.with[:n] {
			tail[i] ^= b
		}
	case editInsert:
		tail = append(bytes.Clone(e.with), tail...)
	case editDrop:
		tail = tail[n:]
	case editEnd:
		tail = nil
	}
	out := append(head, tail...)
	e.changed = !bytes.Equal(out, p)
	_, err := e.Conn.Write(out)
	if e.kind == editEnd {
		err = errors.Join(err, e.Conn.Close())
	}
	return len(p), err
}

// On a line that changes bytes, handshakes end on both sides and leave nothing behind. If one succeeds all the same, both
// ends agree and the data arrives unchanged. On a line that changes nothing, handshakes succeed.
func FuzzTampered(f *testing.F) {
	servers := newFuzzServers(f)
	for kind := range byte(editKinds) {
		f.Add(byte(1), true, false, uint16(60), kind, []byte{1})
		f.Add(byte(2), false, true, uint16(200), kind, []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, mode byte, resume, server bool, at uint16, kind byte, with []byte) {
		balanced(t, func() { tamper(t, servers, mode, resume, edit{server, int(at), kind % editKinds, with}) })
	})
}

func tamper(t *testing.T, servers *fuzzServers, mode byte, resume bool, e edit) {
	server := servers.get(t, mode)
	line, ends := newLine()
	toServer, toClient := &edited{Conn: ends[0]}, &edited{Conn: ends[1]}
	if e.server {
		toClient.edit = e
	} else {
		toServer.edit = e
	}
	c, err := libssl.Client(toServer, servers.client, serverName)
	require.NoError(t, err)
	defer c.Close()
	s, err := libssl.Server(toClient, server.ctx)
	require.NoError(t, err)
	defer s.Close()
	if resume && mode%4 == 1 {
		servers.offer(t, c, kept12[0])
	} else if resume {
		servers.offer(t, c, kept13[0])
	}
	question, answer := []byte("a question"), []byte("the answer")
	served := make(chan error, 1)
	go func() {
		b := make([]byte, len(question))
		_, err := io.ReadFull(s, b)
		if err == nil && !bytes.Equal(b, question) {
			err = fmt.Errorf("%w: %q", errOtherData, b)
		}
		if err == nil {
			_, err = s.Write(answer)
		}
		line.end() // bytes already sent can still be read
		served <- err
	}()
	b := make([]byte, len(answer))
	_, cerr := c.Write(question)
	if cerr == nil {
		if _, cerr = io.ReadFull(c, b); cerr == nil && !bytes.Equal(b, answer) {
			cerr = fmt.Errorf("%w: %q", errOtherData, b)
		}
	}
	if cerr != nil {
		line.end()
	}
	serr := <-served
	line.end() // nothing to drain
	require.NotErrorIs(t, cerr, errOtherData)
	require.NotErrorIs(t, serr, errOtherData)
	if cerr == nil && serr == nil {
		require.Equal(t, c.SessionReused(), s.SessionReused())
		require.Equal(t, c.ConnectionState().Version, s.ConnectionState().Version)
		require.Equal(t, c.ConnectionState().CipherSuite, s.ConnectionState().CipherSuite)
	} else if !toServer.changed && !toClient.changed {
		t.Fatalf("nothing was changed: client %v, server %v", cerr, serr)
	}
}

var errOtherData = errors.New("received data that was not sent")
