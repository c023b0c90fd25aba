package lookup

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/internal/entry"
	"github.com/libssl-go/libssl/internal/guarded"
	"github.com/libssl-go/libssl/internal/hello"
	"github.com/libssl-go/libssl/store"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

func testID(t testing.TB, fill byte, n int) store.ID {
	t.Helper()
	id, err := store.IDFromBytes(bytes.Repeat([]byte{fill}, n))
	require.NoError(t, err)
	return id
}

// testSource is a Source over st with a fresh ring.
func testSource(t testing.TB, st store.Store) *Source {
	t.Helper()
	ring, err := ticket.NewRing()
	require.NoError(t, err)
	s := &Source{
		Store: guarded.New(st, guarded.Options{LookupTimeout: time.Minute, PutTimeout: time.Minute}),
		Seal:  ring, Tags: ring, MaxLifetime: time.Hour,
	}
	t.Cleanup(func() { require.NoError(t, s.Store.Close(context.Background())) })
	return s
}

var idContext = []byte("context")

// put stores a session under id.
func put(t testing.TB, s *Source, st store.Store, id store.ID, made time.Time, der string) {
	t.Helper()
	h := entry.Header{Made: made}
	data := entry.Seal(s.Seal, id, &h, append(make([]byte, entry.HeaderSize), der...))
	require.NoError(t, st.Put(t.Context(), store.Record{ID: id, Data: data, Expires: time.Now().Add(time.Hour)}))
}

func TestSource_KnowsTheIDsOfItsFleet(t *testing.T) {
	s := testSource(t, memstore.New(memstore.Options{}))
	random := bytes.Repeat([]byte{7}, store.MaxIDLen)
	s.NameID(random, [16]byte{})
	named, err := store.IDFromBytes(random)
	require.NoError(t, err)
	require.True(t, s.Issued(named))
	random[store.MaxIDLen-1]++
	tampered, err := store.IDFromBytes(random)
	require.NoError(t, err)
	for _, id := range []store.ID{tampered, testID(t, 7, store.MaxIDLen), testID(t, 7, store.MaxIDLen-1)} {
		require.False(t, s.Issued(id))
	}
	all := []hello.Candidate{{ID: tampered}, {ID: named}}
	require.Equal(t, []hello.Candidate{{ID: named}}, s.Known(all))
	s.Tags = nil // ids by OpenSSL
	require.True(t, s.Issued(tampered))
}

func TestHandshake_AnswersWithTheSession(t *testing.T) {
	st := memstore.New(memstore.Options{})
	s, id, made := testSource(t, st), testID(t, 1, 32), time.Now().Truncate(time.Second)
	put(t, s, st, id, made, "the session")
	h := New(s)
	h.Want([]hello.Candidate{{ID: id}})
	require.Nil(t, h.Answer(id))
	h.LookUp(t.Context(), idContext)
	a := h.Answer(id)
	require.Equal(t, "the session", string(a.DER))
	require.Equal(t, idContext, a.IDContext)
	require.Zero(t, h.From(), "not accepted yet")
	for range 2 { // OpenSSL asks again after a HelloRetryRequest
		h.Accepted(a, false)
	}
	require.Equal(t, id, h.From())
	require.True(t, made.Equal(h.Header().Made))
	require.EqualValues(t, 1, s.Stats.Hits.Load())
	require.EqualValues(t, 1, s.Stats.Suspended.Load())
	require.Zero(t, s.Stats.Parked.Load())
}

func TestHandshake_RefusesEntries(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(s *Source)
		sid    []byte
		age    time.Duration
		want   Reason
	}{
		"of an unknown key": {change: func(s *Source) { s.Seal, _ = ticket.NewRing() }, sid: idContext, want: Undecodable},
		"too old":           {age: 2 * time.Hour, sid: idContext, want: BeyondLifetime},
	} {
		t.Run(name, func(t *testing.T) {
			st := memstore.New(memstore.Options{})
			s, id := testSource(t, st), testID(t, 1, 32)
			put(t, s, st, id, time.Now().Add(-tt.age), "the session")
			if tt.change != nil {
				tt.change(s)
			}
			h := New(s)
			h.Want([]hello.Candidate{{ID: id}})
			h.LookUp(t.Context(), tt.sid)
			require.Nil(t, h.Answer(id).DER)
			for why := range Reasons {
				want := 0
				if why == tt.want {
					want = 1
				}
				require.EqualValues(t, want, s.Stats.Rejections[why].Load(), "reason %d", why)
			}
			_, err := st.Get(t.Context(), id)
			require.NoError(t, err, "another host may be able to use it")
		})
	}
}

// A session with another id context than the Context's may have that of the SSL, which only OpenSSL knows. Whether it resumed
// tells.
func TestHandshake_CountsAnotherIDContextAtTheEnd(t *testing.T) {
	for _, resumed := range []bool{false, true} {
		st := memstore.New(memstore.Options{})
		s, id := testSource(t, st), testID(t, 1, 32)
		put(t, s, st, id, time.Now(), "the session")
		h := New(s)
		h.Accepted(h.LookUpNow(hello.Candidate{ID: id}, idContext), true)
		require.Zero(t, s.Stats.Hits.Load()+s.Stats.Rejections[OtherIDContext].Load())
		h.End(t.Context(), resumed)
		require.Equal(t, resumed, s.Stats.Hits.Load() == 1)
		require.Equal(t, !resumed, s.Stats.Rejections[OtherIDContext].Load() == 1)
	}
}

// answers is a store that answers every Get with one record.
type answers struct {
	store.Store
	rec store.Record
}

func (a answers) Get(context.Context, store.ID) (store.Record, error) { return a.rec, nil }

func TestHandshake_CountsAnotherRecordAsForged(t *testing.T) {
	s := testSource(t, answers{rec: store.Record{ID: testID(t, 2, 32)}})
	h := New(s)
	require.Same(t, s, h.Source())
	require.Nil(t, h.LookUpNow(hello.Candidate{ID: testID(t, 1, 32)}, idContext).DER)
	require.EqualValues(t, 1, s.Stats.Rejections[Forged].Load())
}

func TestHandshake_CountsAnAnswerOnce(t *testing.T) {
	st := memstore.New(memstore.Options{})
	s, id := testSource(t, st), testID(t, 1, 32)
	put(t, s, st, id, time.Now(), "the session")
	for _, accepted := range []bool{false, true} {
		h := New(s)
		a := h.LookUpNow(hello.Candidate{ID: id}, idContext)
		if accepted {
			h.Accepted(a, false)
		}
		for range 2 { // OpenSSL asks again after a HelloRetryRequest
			h.Rejected(a, OtherVersion)
		}
		require.EqualValues(t, 1, s.Stats.Rejections[OtherVersion].Load(), "once, and not what was accepted")
	}
	require.EqualValues(t, 1, s.Stats.Hits.Load())
}

func TestHandshake_LooksUpEachSessionOnce(t *testing.T) {
	s := testSource(t, memstore.New(memstore.Options{}))
	h := New(s)
	h.Want([]hello.Candidate{{ID: testID(t, 1, 32)}})
	for range 2 { // the ClientHello after a HelloRetryRequest offers it again
		h.LookUp(t.Context(), idContext)
		require.EqualValues(t, 1, s.Store.Stats.Misses.Load())
		require.Zero(t, s.Stats.Parked.Load())
	}
	require.EqualValues(t, 2, s.Stats.Suspended.Load())
	New(s).LookUp(t.Context(), idContext) // nothing is wanted
	require.EqualValues(t, 1, s.Store.Stats.Misses.Load())
}

func TestHandshake_PutsBackWhatItDidNotUse(t *testing.T) {
	for name, tt := range map[string]struct{ accepted, resumed, back bool }{
		"not accepted":           {false, false, true},
		"accepted, but unproven": {true, false, true},
		"resumed with another":   {false, true, true},
		"resumed":                {true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			st := memstore.New(memstore.Options{})
			s, id := testSource(t, st), testID(t, 1, 32)
			s.SingleUse.Store(true)
			put(t, s, st, id, time.Now(), "the session")
			h := New(s)
			h.Want([]hello.Candidate{{ID: id, PSK: true}})
			h.LookUp(t.Context(), idContext)
			_, err := st.Get(t.Context(), id)
			require.ErrorIs(t, err, store.ErrNotFound, "taken")
			if tt.accepted {
				h.Accepted(h.Answer(id), false)
			}
			given, cancel := context.WithCancel(t.Context())
			cancel() // the end of a handshake that was given up
			h.End(given, tt.resumed)
			_, err = st.Get(t.Context(), id)
			if tt.back {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, store.ErrNotFound)
			}
		})
	}
}

func TestHandshake_TakesOnlyEntriesOfTLS13(t *testing.T) {
	st := memstore.New(memstore.Options{})
	s, id := testSource(t, st), testID(t, 1, 32)
	s.SingleUse.Store(true)
	put(t, s, st, id, time.Now(), "the session")
	h := New(s)
	require.NotNil(t, h.LookUpNow(hello.Candidate{ID: id}, idContext).DER)
	_, err := st.Get(t.Context(), id)
	require.NoError(t, err)
}

func TestHandshake_WipesItsAnswers(t *testing.T) {
	st := memstore.New(memstore.Options{})
	s := testSource(t, st)
	h := New(s)
	var wanted []hello.Candidate
	for i := range byte(3) {
		id := testID(t, i+1, 32)
		put(t, s, st, id, time.Now(), "the secret")
		wanted = append(wanted, hello.Candidate{ID: id})
	}
	h.Want(wanted)
	h.LookUp(t.Context(), idContext)
	require.Contains(t, string(h.scratch[:]), "the secret", "the first is opened in place")
	last := h.Answer(testID(t, 3, 32)).DER
	require.Equal(t, "the secret", string(last))
	h.End(t.Context(), false)
	require.Nil(t, h.Answer(testID(t, 1, 32)).DER)
	require.NotContains(t, string(h.scratch[:]), "the secret")
	require.NotContains(t, string(last), "secret")
}

// meetingStore keeps every Get waiting for the others.
type meetingStore struct {
	store.Store
	all sync.WaitGroup
}

func (m *meetingStore) Get(context.Context, store.ID) (store.Record, error) {
	m.all.Done()
	m.all.Wait()
	return store.Record{}, store.ErrNotFound
}

// A client that offers several sessions waits as long as one that offers one.
func TestHandshake_LooksUpAtOnce(t *testing.T) {
	st := &meetingStore{}
	s := testSource(t, st)
	h := New(s)
	early := h.add(hello.Candidate{ID: testID(t, 1, 32), PSK: true})
	var wanted []hello.Candidate
	for i := range byte(hello.MaxIdentities) {
		wanted = append(wanted, hello.Candidate{ID: testID(t, i+1, 32), PSK: true})
	}
	wanted = append(wanted, wanted[1]) // once more
	h.Want(wanted)
	st.all.Add(hello.MaxIdentities - 1)
	h.LookUp(t.Context(), idContext)
	require.EqualValues(t, hello.MaxIdentities-1, s.Store.Stats.Misses.Load(), "all but what was known before")
	require.Zero(t, s.Store.Stats.Timeouts.Load())
	for _, c := range wanted {
		require.NotNil(t, h.Answer(c.ID))
	}
	require.Same(t, early, h.Answer(testID(t, 1, 32)))
}

func TestSource_KnowsItsIDs(t *testing.T) {
	s := testSource(t, memstore.New(memstore.Options{}))
	b := bytes.Repeat([]byte{7}, store.MaxIDLen)
	s.NameID(b, [16]byte{})
	own, err := store.IDFromBytes(b)
	require.NoError(t, err)
	all := []hello.Candidate{{ID: testID(t, 7, 32)}, {ID: own}, {ID: testID(t, 7, 31)}}
	require.Equal(t, []hello.Candidate{{ID: own}}, s.Known(all))
	require.EqualValues(t, 2, s.Stats.Untagged.Load())
	s.Tags = nil
	require.True(t, s.Issued(testID(t, 7, 31)), "without tags every id may be issued by the fleet")
}
