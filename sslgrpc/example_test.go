package sslgrpc_test

import (
	"errors"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/sslgrpc"
)

// A server whose clients need a certificate, and resume.
func ExampleServerCredentials() {
	ctx, err := libssl.NewServerContext("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	clientCAs, err := os.ReadFile("ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	err = errors.Join(ctx.AddClientCAsPEM(clientCAs), ctx.SetVerify(libssl.VerifyRequirePeer), ctx.SetSessionIDContext([]byte("service")))
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", ":50051")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(sslgrpc.ServerCredentials(ctx)))
	log.Fatal(srv.Serve(l)) // once services are registered
}

// A channel.
func ExampleClientCredentials() {
	ctx, err := libssl.NewContext(libssl.ClientRole)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	cc, err := grpc.NewClient("localhost:50051", grpc.WithTransportCredentials(sslgrpc.ClientCredentials(ctx)))
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
}
