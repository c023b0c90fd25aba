package libssl

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

func TestResumption_WipesItsAnswers(t *testing.T) {
	id, ring := testID(t, 5, 32), testRing(t)
	secret := []byte("the secret")
	var r resumption
	for i := range byte(3) {
		a := r.add(candidate{id: testID(t, i+1, 32)})
		var err error
		a.der, _, err = openEntry(ring, id, nil, seal(ring, id, nil, time.Now(), secret), a.room)
		require.NoError(t, err)
		require.Equal(t, secret, a.der)
		require.Same(t, a, r.find(a.id))
	}
	require.Contains(t, string(r.entry[:]), string(secret), "the first is opened in place")
	first := r.find(testID(t, 1, 32))
	r.wipe()
	require.Nil(t, first.der)
	require.NotContains(t, string(r.entry[:]), string(secret))
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

// A client that offers several sessions, as an attacker's may, waits as long as one that offers one.
func TestResumption_LooksUpAtOnce(t *testing.T) {
	st := &meetingStore{}
	sc := &SessionCache{st: st, opt: StoreOptions{LookupTimeout: time.Minute}}
	ctx, err := NewContext(ServerRole)
	require.NoError(t, err)
	defer ctx.Close()
	r := &resumption{cache: sc}
	early := r.add(candidate{id: testID(t, 1, 32), psk: true})
	for i := range byte(maxIdentities) {
		r.wanted = append(r.wanted, candidate{testID(t, i+1, 32), true})
	}
	r.wanted = append(r.wanted, r.wanted[1]) // once more
	st.all.Add(maxIdentities - 1)
	r.lookUp(t.Context(), ctx)
	require.EqualValues(t, maxIdentities-1, sc.Stats().Misses, "all but what was known before")
	require.Zero(t, sc.Stats().Timeouts)
	for _, w := range r.wanted {
		require.NotNil(t, r.find(w.id))
	}
	require.Same(t, early, r.find(testID(t, 1, 32)))
}
