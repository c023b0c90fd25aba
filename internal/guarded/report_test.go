package guarded

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// journal is a log whose records can be read back.
type journal struct{ text bytes.Buffer }

func (j *journal) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(&j.text, &slog.HandlerOptions{Level: level}))
}

type attrs = map[string]any

// records returns the records since the last call, without their time.
func (j *journal) records(t *testing.T) (all []attrs) {
	t.Helper()
	for dec := json.NewDecoder(&j.text); dec.More(); {
		var r attrs
		require.NoError(t, dec.Decode(&r))
		delete(r, "time")
		all = append(all, r)
	}
	return all
}

func TestStore_BreakerSparesAFailingStore(t *testing.T) {
	id := testID(t, 1, 32)
	asked, answer := 0, errDown
	st := localStore{scripted{func(context.Context, request) (store.Record, error) {
		asked++
		return store.Record{ID: id}, answer
	}}}
	bubble(t, st, Options{}, func(t *testing.T, s *Store, heard *failures) {
		get := func() error { _, err := s.Get(t.Context(), id); return err }
		for range breakerConsecutive {
			require.False(t, s.Open())
			require.Equal(t, errDown, get())
		}
		require.True(t, s.Open())
		require.Len(t, heard.heard(), breakerConsecutive)

		answer = nil
		require.Equal(t, errBreakerOpen, get())
		require.Equal(t, breakerConsecutive, asked, "the store is left alone")
		require.EqualValues(t, 1, s.Stats.Skipped.Load())
		require.EqualValues(t, 1, s.Stats.LookupsSkipped.Load())
		require.Empty(t, heard.heard(), "a skipped call is no failure")
		require.EqualValues(t, breakerConsecutive, s.Stats.Errors.Load())
		var observed uint64
		for i := range s.Stats.Get.Counts {
			observed += s.Stats.Get.Counts[i].Load()
		}
		require.EqualValues(t, breakerConsecutive, observed, "a skipped call takes no time")

		answer = errDown
		time.Sleep(breakerPeriod)
		require.Equal(t, errDown, get(), "the probe")
		require.Equal(t, errBreakerOpen, get(), "one a second")
		require.True(t, s.Open())

		answer = store.ErrNotFound // which is an answer
		time.Sleep(breakerPeriod)
		require.Equal(t, store.ErrNotFound, get())
		require.False(t, s.Open())
		require.Equal(t, breakerConsecutive+2, asked)
	})
}

// A full server answers lookups and refuses records; a server behind a lossy replica may do the opposite.
func TestStore_BreakersOfLookupsAndWritesAreTwo(t *testing.T) {
	id := testID(t, 1, 32)
	for name, tt := range map[string]struct {
		refused []operation
		open    string
	}{
		"full":        {[]operation{opPut}, "writes"},
		"read-only":   {[]operation{opPut, opDelete}, "writes"},
		"cannot read": {[]operation{opGet, opTake}, "lookups"},
	} {
		t.Run(name, func(t *testing.T) {
			var h history
			st := localStore{recorded(&h, func(_ context.Context, r request) error {
				if slices.Contains(tt.refused, r.op) {
					return errDown
				}
				return nil
			})}
			var log journal
			bubble(t, st, Options{Logger: log.logger(slog.LevelInfo)}, func(t *testing.T, s *Store, _ *failures) {
				for range 100 {
					s.Put(t.Context(), &store.Record{ID: id})
					_, err := s.Get(t.Context(), id)
					require.Equal(t, tt.open == "lookups", err != nil)
					_, err = s.Take(t.Context(), id)
					require.Equal(t, tt.open == "lookups", err != nil)
				}
				require.True(t, s.Open())
				require.Equal(t, tt.open == "lookups", s.lookups.breaker.isOpen())
				require.Equal(t, tt.open == "writes", s.writes.breaker.isOpen())
				require.Len(t, log.records(t), 2, "that it failed, and that it is left alone")
			})
		})
	}
}

func TestStore_FullStoreThatDeletesIsStillFull(t *testing.T) {
	full := errDown
	st := localStore{scripted{func(_ context.Context, r request) (store.Record, error) {
		if r.op == opPut {
			return store.Record{}, full
		}
		return store.Record{}, nil
	}}}
	id := testID(t, 1, 32)
	var log journal
	bubble(t, st, Options{Logger: log.logger(slog.LevelInfo)}, func(t *testing.T, s *Store, _ *failures) {
		remove := func() { s.DeleteLater(id); synctest.Wait() }
		for range 100 {
			remove()
			s.Put(t.Context(), &store.Record{ID: id})
		}
		require.True(t, s.Open(), "between two Puts the store deleted, which says nothing of its room")
		log.records(t)
		time.Sleep(breakerPeriod)
		removed := s.Stats.Removed.Load()
		remove()
		require.Equal(t, removed+1, s.Stats.Removed.Load(), "the probe of this second")
		require.True(t, s.Open())
		require.Empty(t, log.records(t))
		full = nil
		time.Sleep(breakerPeriod)
		s.Put(t.Context(), &store.Record{ID: id})
		require.False(t, s.Open())
		records := log.records(t)
		require.Len(t, records, 1)
		require.Equal(t, "writes", records[0]["operations"])
	})
}

func TestStore_CallerThatGivesUpIsNoFailure(t *testing.T) {
	id := testID(t, 1, 32)
	for name, given := range map[string]func(ctx context.Context) (context.Context, context.CancelFunc){
		"cancelled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
	} {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/direct=%v", name, direct), func(t *testing.T) {
				answers := false
				st := &promptStore{is: direct, scripted: scripted{func(ctx context.Context, r request) (store.Record, error) {
					if answers {
						return store.Record{ID: r.id}, errDown
					}
					<-ctx.Done()
					return store.Record{}, errDown
				}}}
				var log journal
				bubble(t, st, Options{Logger: log.logger(slog.LevelDebug)}, func(t *testing.T, s *Store, heard *failures) {
					giveUp := func() {
						ctx, cancel := given(t.Context())
						defer cancel()
						require.Equal(t, time.Second, took(func() {
							_, err := s.Get(ctx, id)
							require.Error(t, err)
						}))
					}
					for range 2 * breakerConsecutive {
						giveUp()
					}
					require.False(t, s.Open())
					require.Empty(t, heard.heard())
					require.Empty(t, log.records(t))
					require.Zero(t, s.Stats.Errors.Load()+s.Stats.Timeouts.Load()+s.Stats.LookupErrors.Load())

					synctest.Wait() // for the calls left behind
					answers = true
					for !s.Open() {
						_, _ = s.Get(t.Context(), id)
					}
					answers = false
					time.Sleep(breakerPeriod)
					giveUp() // the probe
					require.True(t, s.Open(), "it says nothing of the store")
				})
			})
		}
	}
}

func TestStore_LogsAnOutageInAFewRecords(t *testing.T) {
	id := testID(t, 1, 32)
	record := func(level, msg string, more ...any) attrs {
		r := attrs{"level": level, "msg": msg}
		for i := 0; i < len(more); i += 2 {
			r[more[i].(string)] = more[i+1]
		}
		return r
	}
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		var answer error
		st := localStore{scripted{func(context.Context, request) (store.Record, error) {
			return store.Record{ID: id}, answer
		}}}
		var log journal
		bubble(t, st, Options{Logger: log.logger(level)}, func(t *testing.T, s *Store, _ *failures) {
			get := func() { _, _ = s.Get(t.Context(), id) }
			get()
			require.Empty(t, log.records(t), "all is well")

			answer = errDown
			failed := func(level, op string) attrs {
				return record(level, "store failed", "operation", op, "error", errDown.Error())
			}
			want := []attrs{failed("WARN", "get")}
			get()
			for range breakerConsecutive - 1 {
				get()
				if level == slog.LevelDebug {
					want = append(want, failed("DEBUG", "get"))
				}
			}
			want = append(want, record("ERROR", "store left alone", "operations", "lookups", "error", errDown.Error()))
			require.Equal(t, want, log.records(t))

			get() // skipped
			s.lose(errDown)
			time.Sleep(breakerPeriod)
			get() // the probe fails
			want = nil
			if level == slog.LevelDebug {
				want = append(want, failed("DEBUG", "get"))
			}
			require.Equal(t, want, log.records(t), "nothing new")

			get()
			answer = nil
			time.Sleep(breakerPeriod)
			get()
			get()
			require.Equal(t, []attrs{record("INFO", "store answers again", "operations", "lookups",
				"after", float64(2*breakerPeriod), "skipped", 2.0, "lost", 1.0)}, log.records(t))

			answer = errDown // and it counts anew
			for !s.Open() {
				get()
			}
			log.records(t)
			answer = nil
			time.Sleep(breakerPeriod)
			get()
			require.Equal(t, []attrs{record("INFO", "store answers again", "operations", "lookups",
				"after", float64(breakerPeriod), "skipped", 0.0, "lost", 0.0)}, log.records(t))
		})
	}
}

func TestStore_LogsWhereItPanicked(t *testing.T) {
	st := scripted{func(context.Context, request) (store.Record, error) { panic("at the disco") }}
	var log journal
	bubble(t, st, Options{Logger: log.logger(slog.LevelDebug)}, func(t *testing.T, s *Store, _ *failures) {
		for _, level := range []string{"ERROR", "DEBUG", "DEBUG"} { // the first of a second
			_, err := s.Get(t.Context(), testID(t, 1, 32))
			require.Error(t, err)
			records := log.records(t)
			require.Len(t, records, 1)
			require.Equal(t, level, records[0]["level"])
			require.Equal(t, "libssl: the store panicked: at the disco", records[0]["error"])
			require.Contains(t, records[0]["stack"], "TestStore_LogsWhereItPanicked")
		}
	})
}

// panickyHandler is a slog.Handler that panics, and tells before that it was called.
type panickyHandler struct {
	slog.Handler
	called *int
}

func (panickyHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h panickyHandler) Handle(context.Context, slog.Record) error {
	*h.called++
	panic("the log is full")
}

func TestStore_PanicsOfReportersDoNotEscape(t *testing.T) {
	logged, told := 0, 0
	s := New(localStore{scripted{func(context.Context, request) (store.Record, error) { return store.Record{}, errDown }}}, Options{
		OnError: func(err error) {
			require.Equal(t, errDown, err)
			told++
			panic("and the reporter too")
		},
		Logger: slog.New(panickyHandler{slog.DiscardHandler, &logged}),
	})
	for range breakerConsecutive {
		_, err := s.Get(t.Context(), testID(t, 1, 32))
		require.Equal(t, errDown, err)
	}
	require.True(t, s.Open())
	require.Equal(t, breakerConsecutive, told, "the Logger's panic keeps nothing from OnError")
	require.Equal(t, breakerConsecutive+1, logged)
	s.DeleteLater(testID(t, 1, 32))
	_ = s.Close(t.Context()) // it may have been lost before or after Close began
	require.EqualValues(t, 1, s.Stats.Lost.Load(), "the queue lives on")
}

func TestReport_TellsBoth(t *testing.T) {
	var log journal
	var f failures
	s := New(localStore{}, Options{OnError: f.hear, Logger: log.logger(slog.LevelInfo)})
	s.Report(slog.LevelInfo, "hello", errDown, slog.Int("n", 7))
	require.Equal(t, []attrs{{"level": "INFO", "msg": "hello", "n": 7.0, "error": errDown.Error()}}, log.records(t))
	s.Report(slog.LevelDebug, "hush", errDown)
	require.Empty(t, log.records(t))
	require.Equal(t, []error{errDown, errDown}, f.heard(), "OnError hears every level")
	New(localStore{}, Options{}).Report(slog.LevelError, "to none", errDown)
}

func TestHistogram_CountsUpToItsBounds(t *testing.T) {
	var h Histogram
	var sum time.Duration
	for i, bound := range Bounds {
		for _, d := range []time.Duration{bound, bound + 1} {
			h.Observe(d)
			sum += d
		}
		require.EqualValues(t, 1+min(i, 1), h.Counts[i].Load())
	}
	require.EqualValues(t, 1, h.Counts[len(Bounds)].Load(), "longer than every bound")
	require.EqualValues(t, sum, h.Sum.Load())
	require.Equal(t, "[50µs 100µs 250µs 500µs 1ms 2.5ms 5ms 10ms 25ms 50ms 100ms 250ms 500ms 1s 10s]", fmt.Sprint(Bounds),
		"dashboards name them")
}
