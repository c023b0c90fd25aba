package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libssl-go/libssl/tests/servertest"
)

func TestRedis(t *testing.T) {
	s := newSite(t)
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, s.cert, 0o600))
	require.NoError(t, os.WriteFile(keyFile, s.key, 0o600))
	srv := servertest.RedisTLS(t, "redis-server", certFile, keyFile)
	url := "rediss://" + localhost(t, srv.Addr)

	v, err := version(t, s, url)
	require.NoError(t, err)
	require.Regexp(t, `^redis_version:\d`, v)
	_, err = version(t, s, "rediss://"+srv.Addr)
	requireHostnameError(t, err)

	sslCtx := s.client(t)
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	redisOver(sslCtx, opt)
	client := redis.NewClient(opt)
	defer client.Close()
	require.NoError(t, client.Ping(timeout(t)).Err()) // leaves a session
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			key := fmt.Sprint(i)
			assert.NoError(t, client.Set(timeout(t), key, "value "+key, 0).Err())
			got, err := client.Get(timeout(t), key).Result()
			assert.NoError(t, err)
			assert.Equal(t, "value "+key, got)
		})
	}
	all.Wait()
	stats := sslCtx.Stats()
	require.Greater(t, stats.ConnectGood, 1)
	require.NotZero(t, stats.Hits, "%+v", stats)
}
