package libssl_test

import (
	"bytes"
	"context"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store"
	"github.com/stretchr/testify/require"
)

// Servers on several OpenSSL releases share a store. An entry of another release is resumed, or missed and left to the
// servers that can read it.
func TestUseStore_EntriesOfEachRelease(t *testing.T) {
	const folder = "tests/conformance/testdata/sessions"
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(file.Name(), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(folder, file.Name()))
			require.NoError(t, err)
			for {
				server, rest := pem.Decode(text)
				if server == nil {
					return
				}
				client, rest := pem.Decode(rest)
				text = rest
				rawKey := strings.HasPrefix(file.Name(), "raw-key") // which says nothing of who has it
				resumesOrMisses(t, madeNow(t, server.Bytes), madeNow(t, client.Bytes), !rawKey)
			}
		})
	}
}

// madeNow returns the session with the last second as its time, so that it has not expired. The present second would be
// too late: time(3), which OpenSSL asks, enters a second some milliseconds after time.Now does, and a client does not
// offer a session of TLS 1.3 that is from the future.
func madeNow(t testing.TB, der []byte) []byte {
	t.Helper()
	field := []byte{0xa1, 6, 2, 4}
	at := bytes.Index(der, field)
	require.Positive(t, at)
	binary.BigEndian.PutUint32(der[at+len(field):], uint32(time.Now().Unix()-1))
	return der
}

// trustPeer has a server ask for the client certificate of a session, if it has one. The kept ones are signed by themselves.
func trustPeer(t testing.TB, ctx *libssl.Context, der []byte) {
	t.Helper()
	var seq, field asn1.RawValue
	_, err := asn1.Unmarshal(der, &seq)
	require.NoError(t, err)
	for rest := seq.Bytes; len(rest) > 0; {
		rest, err = asn1.Unmarshal(rest, &field)
		require.NoError(t, err)
		if field.Class == asn1.ClassContextSpecific && field.Tag == 3 {
			require.NoError(t, ctx.AddClientCAsPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: field.Bytes})))
			require.NoError(t, ctx.SetVerify(libssl.VerifyPeer))
		}
	}
}

func resumesOrMisses(t *testing.T, der, clientDER []byte, judged bool) {
	readable, err := libssl.ParseSession(der)
	require.Equal(t, err == nil, readable != nil)
	version := versions["TLSv1.2"]
	if readable != nil {
		defer readable.Release()
		version = readable.Version()
	}
	f := newFleet(t, version)
	f.name = ""
	require.NoError(t, f.client.SetVerify(libssl.VerifyNone))
	require.NoError(t, f.client.SetVersions(version, version)) // or a fresh one of 1.3 asks a 1.2 server for an id of its own
	ctx, st, idContext := f.server(t), newSpy(), []byte("conformance")
	require.NoError(t, ctx.SetSessionIDContext(idContext))
	trustPeer(t, ctx, der)
	cache := useStore(t, ctx, st, &libssl.StoreOptions{Plaintext: true})

	// A session that this OpenSSL cannot offer takes the place of one that it can offer.
	var offer *libssl.Session
	var id store.ID
	if readable != nil {
		offer, id = parse(t, clientDER), readable.ID()
	} else {
		v := f.visit(t, ctx, nil)
		offer, id = v.next, v.id
	}
	entry := store.Record{ID: id, Expires: time.Now().Add(time.Hour)}
	entry.Data = libssl.SealEntry(nil, id, time.Now(), der)
	require.NoError(t, st.Put(context.Background(), entry))

	v := f.visit(t, ctx, offer)
	require.Equal(t, readable != nil && judged, v.resumed)
	stats := cache.Stats()
	switch {
	case readable == nil:
		require.EqualValues(t, 1, stats.Undecodable)
	case judged:
		require.Equal(t, id, v.from)
		require.EqualValues(t, 1, stats.Hits)
	default:
		require.EqualValues(t, 1, stats.RejectedFor[libssl.RejectedPeer])
		stats.Rejected--
	}
	require.Zero(t, stats.Rejected+stats.Misses+stats.Errors)
	require.Empty(t, st.asked(&st.deletes))
	require.Equal(t, entry.Data, st.record(t, id).Data, "it is left where it is")
}
