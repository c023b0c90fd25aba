package wire

import (
	"cmp"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// halfPipe is an end of a net.Pipe with a CloseWrite that only counts.
type halfPipe struct {
	net.Conn
	closed, read *int
	err          error
	noDeadline   bool
}

func (h halfPipe) CloseWrite() error { *h.closed++; return h.err }

func (h halfPipe) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	*h.read += n
	return n, err
}

func (h halfPipe) SetReadDeadline(at time.Time) error {
	if h.noDeadline {
		return errors.New("no deadlines here")
	}
	return h.Conn.SetReadDeadline(at)
}

func TestDrain_ReadsToTheEndWithinItsLimit(t *testing.T) {
	const limit, pause = 4500 * time.Millisecond, time.Second
	errHalf := errors.New("cannot close a half")
	for name, tt := range map[string]struct {
		writes     int // of one byte, each after a pause, before the peer closes
		closeErr   error
		noDeadline bool
		most       int
		elapsed    time.Duration
		read       int
	}{
		"the peer closes":  {3, nil, false, 0, 3 * pause, 3},
		"the peer goes on": {100, nil, false, 0, limit, 4},
		"enough":           {100, nil, false, 2, 2 * pause, 2},
		"no half-close":    {100, errHalf, false, 0, 0, 0},
		"no deadline":      {100, nil, true, 0, 0, 0},
		"closed already":   {0, nil, false, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				closed, read := 0, 0
				go func() {
					defer far.Close()
					for range tt.writes {
						time.Sleep(pause)
						if _, err := far.Write([]byte{1}); err != nil {
							return
						}
					}
				}()
				begin := time.Now()
				Drain(halfPipe{near, &closed, &read, tt.closeErr, tt.noDeadline}, limit, cmp.Or(tt.most, 1000))
				elapsed := time.Since(begin)
				require.NoError(t, near.Close())
				require.Equal(t, tt.elapsed, elapsed)
				require.Equal(t, tt.read, read)
				require.Equal(t, 1, closed)
				time.Sleep(time.Minute) // the peer notices
			})
		})
	}
}

func TestDrain_NeedsAHalfClose(t *testing.T) {
	read := false
	Drain(readConn{read: func([]byte) (int, error) { read = true; return 0, io.EOF }}, time.Minute, 1)
	require.False(t, read)
}

func TestDrain_LetsThePeerReadAll(t *testing.T) {
	near, far := socketPair(t, "tcp")
	_, err := near.Write([]byte("last words"))
	require.NoError(t, err)
	_, err = far.Write(make([]byte, 100_000))
	require.NoError(t, err)
	got := make(chan string)
	go func() {
		b, _ := io.ReadAll(far) // ends by the half-close
		far.Close()
		got <- string(b)
	}()
	Drain(near, time.Minute, 1<<20)
	require.Equal(t, "last words", <-got)
	n, err := near.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Equal(t, io.EOF, err, "nothing is left unread")
}
