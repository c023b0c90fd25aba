package libssl

// #include "bridge.h"
import "C"

// Resources counts what this package holds at the moment, and what its users
// forgot to give back, for tests and metrics.
type Resources struct {
	Contexts int // SSL_CTXs with a Context, or what is left of one
	Conns    int // SSLs of Conns
	Sessions int // references that Sessions own
	Signers  int // private keys of SignerCertificate that OpenSSL holds
	Threads  int // outside Go, which accept for Listeners
	Signing  int // calls of Signers under way, each of which holds an OS thread

	Certificates int // that were not closed

	ForgottenContexts int64 // given back by the collector since the start
	ForgottenConns    int64
	ForgottenSessions int64

	ForgottenCertificates int64
}

// LiveResources reads the counts.
func LiveResources() Resources {
	return Resources{
		Contexts: contexts.Len(), Conns: conns.Len() + int(C.scb_bare_conns()), Sessions: int(liveSessions.Load()),
		Threads: int(C.scb_acceptor_threads()), Signers: signers.Len(), Signing: int(signsPending.Load()),
		ForgottenContexts: forgottenContexts.Load(),
		ForgottenConns:    forgottenConns.Load(),
		ForgottenSessions: forgottenSessions.Load(),

		Certificates: int(liveCertificates.Load()), ForgottenCertificates: forgottenCertificates.Load(),
	}
}
