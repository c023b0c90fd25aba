//go:build race

package sslgrpc_test

func init() { goFlags = append(goFlags, "-race") }
