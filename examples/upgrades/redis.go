package main

import (
	"context"
	"net"
	"regexp"

	"github.com/redis/go-redis/v9"

	"github.com/libssl-go/libssl"
)

// redisOver has all connections of a client with opt use TLS of sslCtx. go-redis ignores TLSConfig where there is a Dialer,
// but asks servers for names in the place of addresses because of it: so the URL says rediss.
func redisOver(sslCtx *libssl.Context, opt *redis.Options) {
	opt.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := libssl.DialContext(ctx, network, addr, sslCtx)
		if err != nil {
			return nil, err // a nil *Conn is no nil net.Conn
		}
		return conn, nil
	}
}

var redisVersionLine = regexp.MustCompile(`redis_version:\S+`)

func redisVersion(ctx context.Context, url string, sslCtx *libssl.Context) (string, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return "", err
	}
	redisOver(sslCtx, opt)
	client := redis.NewClient(opt)
	defer client.Close()
	info, err := client.Info(ctx, "server").Result()
	return redisVersionLine.FindString(info), err
}
