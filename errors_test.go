package libssl_test

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/stretchr/testify/require"
)

func TestError_CarriesTheQueue(t *testing.T) {
	_, server := modes[0].pair(t, false)
	err := server.UseCertificatePEM([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), nil)
	var e *libssl.Error
	require.ErrorAs(t, fmt.Errorf("wrapped: %w", err), &e)
	require.Equal(t, "use certificate", e.Op)
	require.Zero(t, e.Code)
	require.NotEmpty(t, e.Queue)
	require.Greater(t, len(e.Queue), 1, "the whole of it")
	for _, q := range e.Queue {
		require.NotZero(t, q.Code)
		require.NotEmpty(t, q.Library)
		require.NotEmpty(t, q.Reason)
		require.NotEmpty(t, q.File)
		require.NotZero(t, q.Line)
		require.Contains(t, e.Error(), q.Reason)
	}
	// The next failure has its own queue only.
	err = server.SetCiphers("nonsense")
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Queue, 1)
	require.Contains(t, err.Error(), "no cipher match")
}

func TestError_IsMatchesWhatIsAsked(t *testing.T) {
	e := &libssl.Error{Op: "handshake", Code: 1, Queue: []libssl.QueueEntry{{Code: 7, Reason: "seven"}, {Code: 8, Reason: "eight", Data: "d", Library: "l"}}}
	for _, c := range []struct {
		target error
		want   bool
	}{
		{&libssl.Error{}, true},
		{&libssl.Error{Op: "handshake"}, true},
		{&libssl.Error{Op: "read"}, false},
		{&libssl.Error{Code: 1}, true},
		{&libssl.Error{Code: 5}, false},
		{&libssl.Error{Queue: []libssl.QueueEntry{{Code: 8}}}, true},
		{&libssl.Error{Queue: []libssl.QueueEntry{{Code: 8}, {Code: 7}}}, true},
		{&libssl.Error{Queue: []libssl.QueueEntry{{Code: 9}}}, false},
		{errors.New("another"), false},
		{libssl.ErrClosed, false},
	} {
		require.Equal(t, c.want, errors.Is(fmt.Errorf("wrapped: %w", e), c.target), "%+v", c.target)
	}
	require.Equal(t, "libssl: handshake: seven; eight: d (l)", e.Error())
	require.Equal(t, "libssl: read: OpenSSL gave no reason (SSL_get_error 5)", (&libssl.Error{Op: "read", Code: 5}).Error())
	require.Equal(t, "libssl: read: error 0x10", (&libssl.Error{Op: "read", Queue: []libssl.QueueEntry{{Code: 16}}}).Error())
}

func TestErrors_AreWhatTheyAre(t *testing.T) {
	require.ErrorIs(t, libssl.ErrClosed, net.ErrClosed)
	require.NotErrorIs(t, net.ErrClosed, libssl.ErrClosed)
	require.NotErrorIs(t, libssl.ErrReleased, libssl.ErrClosed)
	require.Equal(t, "libssl: closed", libssl.ErrClosed.Error())
	misuse := &libssl.CallbackError{Callback: "get", Value: libssl.ErrReleased}
	require.ErrorIs(t, misuse, libssl.ErrReleased)
	require.Contains(t, misuse.Error(), "get callback: libssl: the session")
	panicked := &libssl.CallbackError{Callback: "new", Value: 7, Stack: []byte("s")}
	require.NoError(t, panicked.Unwrap())
	require.Equal(t, "libssl: new callback panicked: 7", panicked.Error())
}
