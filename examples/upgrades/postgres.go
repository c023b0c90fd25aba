package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/libssl-go/libssl"
)

// postgresOver has every connection of config, those that carry cancel requests too, use TLS of sslCtx. It takes the place of
// sslmode, sslrootcert and their kin in the connection string: no connection is plain, and the server is verified.
//
// SCRAM-SHA-256-PLUS, which channel_binding=require demands, is out of reach: pgx takes the binding from a *tls.Conn only.
func postgresOver(sslCtx *libssl.Context, config *pgconn.Config) error {
	for _, f := range config.Fallbacks { // sslmode=prefer makes one for the same host
		if f.Host != config.Host {
			return errors.New("postgres: several hosts: the dialer cannot tell their names apart")
		}
	}
	host, dial := config.Host, config.DialFunc
	config.TLSConfig, config.Fallbacks = nil, nil // pgx starts no TLS of its own
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn, err := upgrade(ctx, nc, sslCtx, host, askPostgres)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	return nil
}

// askPostgres sends an SSLRequest. The answer is one byte, and no more of it is read: bytes that follow are not the server's
// but for TLS to judge.
func askPostgres(nc net.Conn) error {
	const request = "\x00\x00\x00\x08\x04\xd2\x16\x2f" // its length, and the code 80877103
	if _, err := io.WriteString(nc, request); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(nc, answer[:]); err != nil {
		return fmt.Errorf("postgres: SSLRequest: %w", err)
	}
	if answer[0] != 'S' {
		return errors.New("postgres: the server refuses TLS")
	}
	return nil
}

func postgresVersion(ctx context.Context, url string, sslCtx *libssl.Context) (version string, err error) {
	config, err := pgx.ParseConfig(url) // pgxpool.ParseConfig has it as ConnConfig
	if err != nil {
		return "", err
	}
	if err := postgresOver(sslCtx, &config.Config); err != nil {
		return "", err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "select version()").Scan(&version)
	return version, err
}
