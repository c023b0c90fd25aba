package memcachestore

import (
	"bufio"
	"context"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// strangeServer answers a get of a record with any bytes, in which KEY stands for the key.
type strangeServer struct {
	addr   string
	answer atomic.Pointer[string]
}

func newStrangeServer(t testing.TB) *strangeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	s := &strangeServer{addr: l.Addr().String()}
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(nc)
		}
	}()
	return s
}

func (s *strangeServer) serve(nc net.Conn) {
	defer nc.Close()
	lines := bufio.NewScanner(nc)
	for lines.Scan() {
		answer := "END\r\n"
		if f := strings.Fields(lines.Text()); len(f) == 2 && !strings.HasSuffix(f[1], "check") {
			answer = strings.ReplaceAll(*s.answer.Load(), "KEY", f[1])
		}
		if _, err := io.WriteString(nc, answer); err != nil {
			return
		}
	}
}

// terribleAnswers take as much memory as they like where nothing stands before the client library.
var terribleAnswers = map[string]string{
	"huge value":           "VALUE KEY 0 2000000000 1\r\n",
	"length beyond memory": "VALUE KEY 0 9223372036854775800 1\r\n",
	"length of 32 bits":    "VALUE KEY 0 4294967295 1\r\n",
	"negative length":      "VALUE KEY 0 -3 1\r\n",
	"no length":            "VALUE KEY\r\n",
	"endless values":       strings.Repeat("VALUE KEY 0 1 1\r\nx\r\n", 100),
	"endless line":         strings.Repeat("x", 1<<16),
	"no end":               "VALUE KEY 0 3 1\r\nxxxxx\r\nEND\r\n",
}

func TestStore_BearsEveryAnswer(t *testing.T) {
	srv := newStrangeServer(t)
	for name, answer := range terribleAnswers {
		t.Run(name, func(t *testing.T) {
			srv.answer.Store(&answer)
			s := mustOpen(t, srv.addr, Options{})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.Get(t.Context(), record(t, "01").ID)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			require.NotErrorIs(t, err, store.ErrNotFound)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(600<<10))
		})
	}
}

func TestStore_TakesTheLargestRecord(t *testing.T) {
	srv := newStrangeServer(t)
	s := mustOpen(t, srv.addr, Options{})
	r := record(t, "01")
	for _, size := range []int{0, 1, store.MaxData} {
		r.Data = make([]byte, size)
		value := string(store.Encode(r))
		answer := "VALUE KEY 0 " + strconv.Itoa(len(value)) + " 1\r\n" + value + "\r\nEND\r\n"
		srv.answer.Store(&answer)
		got, err := s.Get(t.Context(), r.ID)
		require.NoError(t, err)
		require.Len(t, got.Data, size)
	}
	answer := "VALUE KEY 0 1000000 1\r\n" + strings.Repeat("x", 1000000) + "\r\nEND\r\n"
	srv.answer.Store(&answer)
	_, err := s.Get(t.Context(), r.ID)
	require.ErrorIs(t, err, store.ErrNotFound, "a value that is no record is a miss")
}

func TestCheckedConn_ReadsInPieces(t *testing.T) {
	const b = "STORED\r\nVALUE a 0 3 1\r\na\nb\r\nEND\r\nEND\r\nVALUE a 0 0\r\n\r\nEND\r\n"
	for _, step := range []int{1, 5, 1 << 10} {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			for left := b; left != ""; left = left[min(step, len(left)):] {
				if _, err := io.WriteString(theirs, left[:min(step, len(left))]); err != nil {
					return
				}
			}
		}()
		got, err := io.ReadAll(&checkedConn{Conn: ours})
		require.NoError(t, err)
		require.Equal(t, b, string(got))
		ours.Close()
	}
}

// FuzzAnswers lets a server answer a Get with any bytes.
func FuzzAnswers(f *testing.F) {
	for _, answer := range terribleAnswers {
		if len(answer) < 1<<10 {
			f.Add([]byte(answer))
		}
	}
	f.Add([]byte("VALUE KEY 0 1 1\r\nx\r\nEND\r\n"))
	srv := newStrangeServer(f)
	s, err := Open(srv.addr, Options{})
	require.NoError(f, err)
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, answer []byte) {
		text := string(answer) + "\r\nERROR\r\n" // so that the store need not wait for more
		srv.answer.Store(&text)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := s.Get(ctx, record(t, "01").ID)
		require.Error(t, err, "no answer is a record")
	})
}
