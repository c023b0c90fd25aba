package valkeystore

import (
	"bufio"
	"context"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/store"
)

// strangeServer greets as Valkey does, and answers GET with any bytes.
type strangeServer struct {
	addr   string
	answer atomic.Pointer[string]
	conns  atomic.Int64
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
			s.conns.Add(1)
			go s.serve(nc)
		}
	}()
	return s
}

func (s *strangeServer) serve(nc net.Conn) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		answer := "+OK\r\n"
		switch command[0] {
		case "HELLO":
			answer = "%2\r\n+version\r\n+8.0.0\r\n+proto\r\n:3\r\n"
		case "CLUSTER":
			answer = "-ERR This instance has cluster support disabled\r\n"
		case "GETDEL":
			answer = "_\r\n"
		case "PING":
			answer = "+PONG\r\n"
		case "GET":
			answer = *s.answer.Load()
		}
		if _, err := io.WriteString(nc, answer); err != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	number := func() (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number()
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		size, err := number()
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		command[i] = string(b[:size])
	}
	return command, nil
}

// get asks for a record, with time for the server's answer.
func get(t testing.TB, s *Store) error {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Get(ctx, record(t, "01").ID)
	return err
}

// terribleAnswers end a process, or take as much memory as they like, where nothing stands before the client library.
var terribleAnswers = map[string]string{
	"negative string":          "$-7\r\n",
	"negative array":           "*-5\r\n",
	"length beyond memory":     "$9223372036854775800\r\n",
	"map beyond memory":        "%9223372036854775800\r\n",
	"map whose double is zero": "%9223372036854775808\r\n",
	"huge string":              "$99999999999\r\n",
	"large string":             "$1100000\r\n",
	"large array":              "*100000\r\n",
	"many small arrays":        strings.Repeat("*2000\r\n", 7),
	"deep":                     strings.Repeat("*1\r\n", 10000),
	"streamed string":          "$?\r\n;-5\r\n",
	"streamed array":           "*?\r\n",
	"endless attributes":       "|1\r\n+a\r\n+b\r\n",
	"endless line":             "+" + strings.Repeat("x", 1<<16),
	"no carriage return":       "+\n",
	"string without an end":    "$1\r\nabc",
	"unknown type":             "@1\r\n",
	"push":                     ">2\r\n+invalidate\r\n_\r\n",
	"subscription":             ">3\r\n+subscribe\r\n+x\r\n:1\r\n",
	"push in an array":         "*1\r\n>3\r\n+subscribe\r\n+x\r\n:1\r\n",
	"two answers":              "+a\r\n+b\r\n",
	"redirection to nowhere":   "-MOVED\r\n",
	"another redirection":      "-ASK 1\r\n",
}

func TestStore_BearsEveryAnswer(t *testing.T) {
	srv := newStrangeServer(t)
	for name, answer := range terribleAnswers {
		t.Run(name, func(t *testing.T) {
			srv.answer.Store(&answer)
			s := mustOpen(t, "valkey://"+srv.addr, Options{})
			conns := srv.conns.Load()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := get(t, s)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			conns = srv.conns.Load() - conns // the library repeats a Get
			assert.Less(t, (after.TotalAlloc-before.TotalAlloc)/uint64(conns+1), uint64(800<<10), "for each connection")

			good := "_\r\n"
			srv.answer.Store(&good)
			require.Eventually(t, func() bool { return get(t, s) != nil && get(t, s).Error() == store.ErrNotFound.Error() },
				10*time.Second, time.Millisecond, "it connects again")
		})
	}
}

func TestStore_TakesTheLargestRecord(t *testing.T) {
	srv := newStrangeServer(t)
	r := record(t, "01")
	r.Data = make([]byte, store.MaxData)
	value := string(store.Encode(r))
	answer := "$" + strconv.Itoa(len(value)) + "\r\n" + value + "\r\n"
	srv.answer.Store(&answer)
	require.NoError(t, get(t, mustOpen(t, "valkey://"+srv.addr, Options{})))
}

// A value that is no record must not break the connection, which other calls share.
func TestStore_PassesOverALargeValue(t *testing.T) {
	srv := newStrangeServer(t)
	answer := "$1000000\r\n" + strings.Repeat("x", 1000000) + "\r\n"
	srv.answer.Store(&answer)
	s := mustOpen(t, "valkey://"+srv.addr, Options{})
	var conns int64
	for i := range 100 {
		require.ErrorIs(t, get(t, s), store.ErrNotFound)
		if i == 50 { // the library has made its few connections
			conns = srv.conns.Load()
		}
	}
	require.Equal(t, conns, srv.conns.Load())
}

// feed gives a reader of answers the bytes, a few at a time, and returns what it lets through.
func feed(asked []question, b []byte, step int) ([]byte, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		for len(b) > 0 {
			n := min(step, len(b))
			if _, err := theirs.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
	}()
	defer ours.Close()
	c := newCheckedConn(ours)
	c.answers.asked.all = slices.Clone(asked)
	return io.ReadAll(c)
}

func TestCheckedConn_PassesAnswersOn(t *testing.T) {
	other := question{kind: askOther}
	for name, tt := range map[string]struct {
		asked []question
		b     string
	}{
		"values": {[]question{other, other, other, other, {kind: askRecord}, {kind: askRecord}, {kind: askRecord}},
			"+OK\r\n:-12\r\n#t\r\n,1.5\r\n$3\r\na\nb\r\n$-1\r\n_\r\n"},
		"a page of keys":  {[]question{{kind: askList}}, "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$0\r\n\r\n"},
		"nested":          {[]question{{kind: askList}, other}, "*3\r\n*0\r\n%1\r\n+a\r\n*1\r\n~1\r\n:1\r\n*-1\r\n-ERR no\r\n"},
		"a planted value": {[]question{{kind: askRecord}, other}, "$0\r\n\r\n+OK\r\n"},
		"an address":      {[]question{{kind: askAddress}, {kind: askAddress}}, "*2\r\n$1\r\na\r\n$1\r\n1\r\n*-1\r\n"},
		"a subscription": {[]question{{kind: askUnsubscribe}, {kind: askPing}, {askSubscribe, 2}, other},
			">3\r\n$11\r\nunsubscribe\r\n+x\r\n:0\r\n+PONG\r\n>3\r\n+subscribe\r\n+x\r\n:1\r\n>3\r\n+subscribe\r\n+y\r\n:2\r\n" +
				">3\r\n+message\r\n++switch-master\r\n$13\r\nmain a 1 b 2\n\r\n+OK\r\n"},
		"a redirection": {[]question{other}, "-MOVED 1 127.0.0.1:1\r\n"},
	} {
		for _, step := range []int{1, 7, 1 << 16} {
			sent := tt.b
			if name == "a planted value" {
				sent = strings.Replace(sent, "$0\r\n", "$70000\r\n"+strings.Repeat("x", 70000), 1)
			}
			got, err := feed(tt.asked, []byte(sent), step)
			require.NoError(t, err, name)
			require.Equal(t, tt.b, string(got), name)
		}
	}
}

func TestCheckedConn_RefusesWhatTheLibraryCannotBear(t *testing.T) {
	for name, tt := range map[string]struct {
		asked []question
		b     string
	}{
		"half an address":         {[]question{{kind: askAddress}}, "*1\r\n+a\r\n"},
		"an event without fields": {[]question{{kind: askOther}}, ">3\r\n+message\r\n++switch-master\r\n+main a 1 b\r\n"},
		"a confirmation too many": {[]question{{askSubscribe, 1}, {kind: askOther}}, ">3\r\n+subscribe\r\n+x\r\n:1\r\n>3\r\n+subscribe\r\n+x\r\n:1\r\n"},
		"QUEUED":                  {[]question{{askSubscribe, 1}}, "+QUEUED\r\n"},
		"no pong":                 {[]question{{kind: askUnsubscribe}, {kind: askPing}}, "-ERR\r\n+OK\r\n"},
		"unasked":                 {nil, "+OK\r\n"},
	} {
		got, err := feed(tt.asked, []byte(tt.b), 1<<16)
		require.ErrorIs(t, err, errProtocol, name)
		require.NotEqual(t, tt.b, string(got), name)
	}
}

// FuzzAnswers lets a server answer a Get with any bytes. The client library panics on goroutines of its own, which ends the process.
func FuzzAnswers(f *testing.F) {
	for _, answer := range terribleAnswers {
		if len(answer) < 1<<10 {
			f.Add([]byte(answer))
		}
	}
	f.Add([]byte("$3\r\nabc\r\n"))
	f.Add([]byte("%1\r\n+a\r\n*2\r\n:1\r\n~0\r\n"))
	srv := newStrangeServer(f)
	empty := "_\r\n"
	srv.answer.Store(&empty)
	f.Fuzz(func(t *testing.T, answer []byte) {
		text := string(answer) + "\r\n-an end\r\n" // so that the store need not wait for more
		srv.answer.Store(&text)
		s, err := Open("valkey://"+srv.addr, Options{}) // a fresh one: after a broken connection the library waits before it makes another
		require.NoError(t, err)
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err = s.Get(ctx, record(t, "01").ID)
		require.Error(t, err, "no answer is a record")
	})
}
