package libssl_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// logged keeps the records of a Logger.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level}))
}

// records returns the records since the last call.
func (l *logged) records(t testing.TB) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for dec := json.NewDecoder(&l.text); dec.More(); {
		var r map[string]any
		require.NoError(t, dec.Decode(&r))
		delete(r, "time")
		all = append(all, r)
	}
	return all
}

func TestLogger_HearsAnOutageInAFewRecords(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
			var down atomic.Bool
			st, ring := outageOf(&down), newRing(t)
			var log logged
			server, cache := f.node(t, st, &libssl.StoreOptions{Keys: ring, Logger: log.logger(level)})
			clock := breakerClock(cache)
			require.NoError(t, server.SetNumTickets(1)) // two would be put side by side, in any order
			i := f.issue(t, server, st, ring)
			require.True(t, f.visit(t, server, i.sess).resumed)
			require.Empty(t, log.records(t), "all is well")

			down.Store(true)
			for range 10 {
				require.False(t, f.visit(t, server, i.sess).resumed)
			}
			require.True(t, cache.Stats().Open)
			text := log.text.String()
			for _, secret := range [][]byte{sessionField(t, i.der, fieldSecret), i.id.Bytes()} {
				require.NotContains(t, text, hex.EncodeToString(secret))
				require.NotContains(t, text, fmt.Sprint(secret))
			}
			records := log.records(t)
			first := map[string]any{"level": "WARN", "msg": "store failed", "operation": "get", "error": errDown.Error()}
			require.Equal(t, first, records[0])
			left := records[len(records)-2:]
			if level == slog.LevelInfo {
				require.Len(t, records, 4)
			} else {
				require.Len(t, records, int(cache.Stats().Errors)+2, "each failure, and that the store is left alone")
				left = []map[string]any{records[len(records)-3], records[len(records)-1]}
			}
			for i, operations := range []string{"lookups", "writes"} {
				require.Equal(t, map[string]any{"level": "ERROR", "msg": "store left alone", "operations": operations,
					"error": errDown.Error()}, left[i])
			}

			clock.Add(int64(time.Second))
			f.visit(t, server, i.sess) // tries, and fails
			for _, r := range log.records(t) {
				require.Equal(t, "DEBUG", r["level"], "nothing new")
			}
			down.Store(false)
			clock.Add(int64(time.Second))
			require.True(t, f.visit(t, server, i.sess).resumed)
			f.visit(t, server, nil) // stores
			records = log.records(t)
			require.Len(t, records, 2)
			skipped := cache.Stats()
			for i, want := range []uint64{skipped.LookupsSkipped, skipped.Skipped - skipped.LookupsSkipped} {
				require.Positive(t, records[i]["after"])
				delete(records[i], "after")
				require.Equal(t, map[string]any{"level": "INFO", "msg": "store answers again",
					"operations": []string{"lookups", "writes"}[i], "skipped": float64(want), "lost": float64(0)}, records[i])
			}
		}
	})
}

func TestLogger_HearsWhatAnOutageLost(t *testing.T) {
	f := newFleet(t, tls.VersionTLS12)
	var down atomic.Bool
	st := outageOf(&down)
	var log logged
	server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), WriteBehind: true, Logger: log.logger(slog.LevelInfo)})
	clock := breakerClock(cache)
	down.Store(true)
	var made uint64
	for made < 10 {
		f.visit(t, server, nil)
		made++
		wait(t, "the queue", func() bool { return cache.Stats().Queue == 0 })
		require.Equal(t, made, cache.Stats().Lost)
		require.Equal(t, made >= 5, cache.Stats().Open)
	}
	down.Store(false)
	clock.Add(int64(time.Second))
	f.visit(t, server, nil)
	wait(t, "the store's answer", func() bool { return !cache.Stats().Open })
	wait(t, "the queue", func() bool { return cache.Stats().Queue == 0 })
	records := log.records(t)
	last := records[len(records)-1]
	require.Equal(t, "store answers again", last["msg"])
	require.EqualValues(t, made-4, last["lost"], "four before the one that opened the breaker")
}

func TestLogger_HearsWhereAStorePanicked(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		st.OnGet = func(context.Context, store.ID) (store.Record, error) { panic("at the disco") }
		var log logged
		server, cache := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), Logger: log.logger(slog.LevelInfo)})
		breakerClock(cache)
		sess := f.visit(t, server, nil).next
		for range 3 {
			require.False(t, f.visit(t, server, sess).resumed)
		}
		records := log.records(t)
		require.Len(t, records, 1, "the first of a second")
		require.Equal(t, "ERROR", records[0]["level"])
		require.Equal(t, "store failed", records[0]["msg"])
		require.Contains(t, records[0]["error"], "at the disco")
		require.Contains(t, records[0]["stack"], "TestLogger_HearsWhereAStorePanicked")
	})
}

// panickyHandler is a slog.Handler that panics.
type panickyHandler struct{ slog.Handler }

func (h panickyHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (h panickyHandler) Handle(context.Context, slog.Record) error { panic("the log is full") }

func TestLogger_MayPanic(t *testing.T) {
	eachVersion(t, func(t *testing.T, f *fleet) {
		st := newSpy()
		st.OnGet = func(context.Context, store.ID) (store.Record, error) { return store.Record{}, errDown }
		var errs heard
		server, _ := f.node(t, st, &libssl.StoreOptions{Keys: newRing(t), OnError: errs.hear,
			Logger: slog.New(panickyHandler{slog.DiscardHandler})})
		sess := f.visit(t, server, nil).next
		require.False(t, f.visit(t, server, sess).resumed)
		require.ErrorIs(t, errs.all(), errDown, "OnError hears it all the same")
	})
}
