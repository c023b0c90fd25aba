// Package sslgrpc has credentials for gRPC whose connections are libssl's.
package sslgrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"

	"google.golang.org/grpc/credentials"

	"github.com/libssl-go/libssl"
)

const (
	h2          = "h2"
	maxSessions = 1000
)

// ServerCredentials returns credentials for grpc.Creds. Servers have the certificates of ctx, and its policy and sessions too.
// AuthInfo is a credentials.TLSInfo, as with gRPC's own credentials: its State has the client's certificates, after a
// resumption too.
//
// Clients have to agree to "h2" by ALPN, as gRPC's own credentials demand. Where no ALPN is set on ctx, ServerCredentials sets
// it. Where ALPN is set without "h2", every handshake fails. Contexts that a server-name handler chooses need "h2" too.
// grpc.ConnectionTimeout bounds a handshake.
//
// Clients with certificates resume only where ctx has SetSessionIDContext or UseStore; without either, OpenSSL ends the
// handshakes of those that try.
//
// Ownership: ctx stays the caller's, who may close it once the server has stopped.
func ServerCredentials(ctx *libssl.Context) credentials.TransportCredentials {
	return &creds{ctx: ctx, err: offerH2(ctx)}
}

// ClientCredentials returns credentials for grpc.WithTransportCredentials. The CAs of ctx verify the server for the host of
// the authority, which grpc.WithAuthority overrides. AuthInfo is a credentials.TLSInfo, as with gRPC's own credentials. The
// context of a dial bounds the handshake.
//
// It calls UseClientCache on ctx, so that sessions are resumed, unless ctx keeps sessions already. Connections offer "h2",
// whatever ALPN is set on ctx, and end if the server does not choose it.
//
// Ownership: ctx stays the caller's, who may close it once the channels are closed.
func ClientCredentials(ctx *libssl.Context) credentials.TransportCredentials {
	_ = ctx.UseClientCache(maxSessions) // fails where ctx has a cache or a callback, or where handshakes will fail
	return &creds{ctx: ctx}
}

// offerH2 makes sure that servers of ctx negotiate HTTP/2.
func offerH2(ctx *libssl.Context) error {
	protos, err := ctx.ALPN()
	switch {
	case err != nil:
		return err
	case protos == nil:
		return ctx.SetALPN(h2)
	case !slices.Contains(protos, h2):
		return errors.New("sslgrpc: the ALPN of the Context does not have h2")
	}
	return nil
}

// creds are for both ends: libssl refuses a connection of the wrong role.
type creds struct {
	ctx        *libssl.Context
	err        error  // why ctx cannot be served
	serverName string // see OverrideServerName
}

// ClientHandshake verifies the server for the host of authority, which gRPC derives from Info's server name.
func (c *creds) ClientHandshake(ctx context.Context, authority string, rawConn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority // it has no port
	}
	conn, err := libssl.Client(rawConn, c.ctx, host)
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetALPN(h2); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return handshake(ctx, conn)
}

// ServerHandshake ends by the deadline that gRPC has set on rawConn.
func (c *creds) ServerHandshake(rawConn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.err != nil {
		return nil, nil, c.err
	}
	conn, err := libssl.Server(rawConn, c.ctx)
	if err != nil {
		return nil, nil, err
	}
	return handshake(context.Background(), conn)
}

func handshake(ctx context.Context, conn *libssl.Conn) (net.Conn, credentials.AuthInfo, error) {
	var state tls.ConnectionState
	err := conn.HandshakeContext(ctx)
	if err == nil {
		if state = conn.ConnectionState(); state.NegotiatedProtocol != h2 {
			err = fmt.Errorf("sslgrpc: handshake: ALPN chose %q instead of h2", state.NegotiatedProtocol)
		}
	}
	if err != nil {
		conn.Close() // the first error counts
		return nil, nil, err
	}
	return conn, credentials.TLSInfo{
		State:          state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		SPIFFEID:       spiffeID(state),
	}, nil
}

// Limits of the SPIFFE ID specification, in bytes.
const (
	maxSPIFFEID    = 2048
	maxTrustDomain = 255
)

// spiffeID is the SPIFFE ID in the peer's certificate, nil if there is none. As in gRPC's own credentials, it has a trust
// domain and a path, and is the only URI of the certificate.
func spiffeID(state tls.ConnectionState) *url.URL {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return nil
	}
	id := state.PeerCertificates[0].URIs[0]
	switch {
	case id.Scheme != "spiffe" || id.User.Username() != "":
	case id.Host == "" || len(id.Host) > maxTrustDomain || id.Path == "" || len(id.String()) > maxSPIFFEID:
	default:
		return id
	}
	return nil
}

// Info describes the credentials as gRPC's own for TLS do.
func (c *creds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", SecurityVersion: "1.2", ServerName: c.serverName}
}

// Clone returns credentials of the same Context, whose server name can be overridden apart.
func (c *creds) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName sets the authority of channels that are made later. Use grpc.WithAuthority instead.
func (c *creds) OverrideServerName(name string) error {
	c.serverName = name
	return nil
}
