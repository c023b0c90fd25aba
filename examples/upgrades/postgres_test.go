package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/tests/servertest"
)

func postgresURL(host string) string { return "postgres://postgres:postgres@" + host + "/postgres" }

func TestPostgres(t *testing.T) {
	s := newSite(t)
	srv := servertest.Postgres(t, s.cert, s.key)
	url := postgresURL(localhost(t, srv.Addr))
	t.Run("version", func(t *testing.T) {
		v, err := version(t, s, url)
		require.NoError(t, err)
		require.Regexp(t, `^PostgreSQL \d+`, v)
	})
	t.Run("pool", func(t *testing.T) { testPool(t, s.client(t), url) })
	t.Run("cancel", func(t *testing.T) { testCancel(t, s.client(t), url) })
	t.Run("refused", func(t *testing.T) {
		_, err := version(t, s, postgresURL(srv.Addr))
		requireHostnameError(t, err)
		_, err = version(t, newSite(t), url)
		var unknown x509.UnknownAuthorityError
		require.ErrorAs(t, err, &unknown)
	})
	t.Run("channel binding", func(t *testing.T) {
		_, err := version(t, s, url+"?channel_binding=require")
		require.ErrorContains(t, err, "channel binding data is not available")
	})
}

func testPool(t *testing.T, ctx *libssl.Context, url string) {
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	require.NoError(t, postgresOver(ctx, &config.ConnConfig.Config))
	pool, err := pgxpool.NewWithConfig(timeout(t), config)
	require.NoError(t, err)
	defer pool.Close()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			var encrypted bool
			var echoed string
			sent := strings.Repeat(fmt.Sprint(i%10), 100_000)
			err := pool.QueryRow(timeout(t), "select ssl, $1 from pg_stat_ssl where pid = pg_backend_pid()", sent).Scan(&encrypted, &echoed)
			assert.NoError(t, err)
			assert.True(t, encrypted)
			assert.Equal(t, sent, echoed)
		})
	}
	all.Wait()
}

// A cancel request, which names the secret of a connection, comes on a connection of its own.
func testCancel(t *testing.T, ctx *libssl.Context, url string) {
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	require.NoError(t, postgresOver(ctx, &config.Config))
	conn, err := pgx.ConnectConfig(timeout(t), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	connected := ctx.Stats().ConnectGood
	notices := make(chan error, 1)
	go func() {
		_, err := conn.Exec(timeout(t), "select pg_sleep(60)")
		notices <- err
	}()
	// One that comes before the query is lost.
	for err = nil; err == nil; {
		require.NoError(t, conn.PgConn().CancelRequest(timeout(t)))
		select {
		case err = <-notices:
		default:
		}
	}
	var canceled *pgconn.PgError
	require.ErrorAs(t, err, &canceled)
	require.Equal(t, "57014", canceled.Code)
	require.Greater(t, ctx.Stats().ConnectGood, connected)
}

func TestPostgres_NothingGoesInPlainText(t *testing.T) {
	s := newSite(t)
	for answer, reason := range map[string]string{
		"N": "refuses TLS", "E": "refuses TLS", "": "EOF",
		"SR\x00\x00\x00\x08\x00\x00\x00\x00": "libssl: handshake", // a message that was slipped in
	} {
		for _, mode := range []string{"", "?sslmode=disable", "?sslmode=prefer", "?sslmode=verify-full"} {
			addr := scripted(t, func(nc net.Conn) {
				var request [8]byte
				io.ReadFull(nc, request[:])
				if answer == "" {
					return
				}
				io.WriteString(nc, answer)
				rest, _ := io.ReadAll(nc)
				assert.NotContains(t, string(rest), "postgres")
			})
			_, err := version(t, s, postgresURL(addr)+mode)
			require.ErrorContains(t, err, reason, "%q %s", answer, mode)
		}
	}
}

func TestPostgres_SeveralHosts(t *testing.T) {
	config, err := pgx.ParseConfig(postgresURL("one.example,two.example"))
	require.NoError(t, err)
	require.ErrorContains(t, postgresOver(newSite(t).client(t), &config.Config), "several hosts")
}

func TestPostgres_DialErrors(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, run(ctx, s.caFile, postgresURL("localhost"), io.Discard), context.Canceled)
}
