package libssl

// #include "bridge.h"
import "C"

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/libssl-go/libssl/cgo"
)

// signers are the keys that an EVP_PKEY of signer.c stands for.
var signers cgo.Registry[crypto.Signer]

// signing bounds how many Signers work beside the steps that have a slot: each holds an OS thread.
var (
	signing      = make(chan struct{}, 2*runtime.GOMAXPROCS(0)+16)
	signsPending atomic.Int64
)

var errSignerPanicked = errors.New("libssl: the signer panicked")

// SignerCertificate makes a Certificate of a chain in DER, the leaf first, and a key that only signs, such as one in an HSM or
// a KMS: ECDSA, RSA or Ed25519. OpenSSL gets a key of a provider of this package, so that it needs no part of the private key.
// There is no such provider on OpenSSL 1.1.1: the answer is ErrUnsupported.
//
// key signs digests with the options that crypto/tls has: a crypto.Hash for ECDSA and RSA PKCS #1, and *rsa.PSSOptions with a
// salt as long as the digest for PSS. Ed25519 signs the message itself, with crypto.Hash(0). TLS 1.3 has no PKCS #1. Digests are
// made where the Context of the connection has its algorithms from, and in OpenSSL's default library context where C drives the
// SSL. An RSA key cannot decrypt, so TLS 1.2's ciphers with RSA key exchange fail with it.
//
// An error of key ends the handshake, whose error wraps it, with the alert internal_error. So does a panic, which
// OnCallbackError is told of.
//
// Ownership: key is in use until the Certificate and all Contexts and connections that use it are closed.
//
// Locks and threads: many handshakes call Sign at once. It is a handler of its connection, and holds an OS thread until it
// returns. Four for each of GOMAXPROCS and 24 can be under way; connections of the same Contexts then wait.
// LiveResources counts them.
func SignerCertificate(chain [][]byte, key crypto.Signer) (*Certificate, error) {
	if C.scb_have_providers() == 0 {
		return nil, unsupported("a crypto.Signer: OpenSSL 1.1.1 has no providers")
	}
	if len(chain) == 0 || key == nil {
		return nil, errors.New("libssl: signer certificate: no certificate, or no signer")
	}
	if err := checkSigner(chain[0], key); err != nil {
		return nil, err
	}
	h := signers.Put(&key)
	der := slices.Concat(chain...)
	r := C.scb_cert_signer(bytesPtr(der), C.size_t(len(der)), C.uint64_t(h))
	if r.cert == nil {
		signers.Delete(h)
		return nil, takeError("signer certificate", 0, r.errs)
	}
	return newCertificate(r.cert), nil
}

// checkSigner reports a key that cannot sign for the certificate.
func checkSigner(leaf []byte, key crypto.Signer) error {
	cert, err := x509.ParseCertificate(leaf)
	if err != nil {
		return fmt.Errorf("libssl: signer certificate: %w", err)
	}
	var equal func(crypto.PublicKey) bool
	switch pub := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		equal = pub.Equal
	case *ecdsa.PublicKey:
		equal = pub.Equal
	case ed25519.PublicKey:
		equal = pub.Equal
	default:
		return unsupported("a signer for a certificate with a key of type %s", cert.PublicKeyAlgorithm)
	}
	if !equal(key.Public()) {
		return errors.New("libssl: signer certificate: the signer's public key is not the certificate's")
	}
	return nil
}

//export scbGoSignerFree
func scbGoSignerFree(signerHandle C.uint64_t) { signers.Delete(cgo.Handle(signerHandle)) }

var hashes = map[C.int]crypto.Hash{
	C.NID_undef:    0, // Ed25519 signs the message
	C.NID_md5_sha1: crypto.MD5SHA1,
	C.NID_sha1:     crypto.SHA1,
	C.NID_sha224:   crypto.SHA224,
	C.NID_sha256:   crypto.SHA256,
	C.NID_sha384:   crypto.SHA384,
	C.NID_sha512:   crypto.SHA512,
}

// scbGoSign returns nil, or the reason of the failure, which the caller frees.
//
//export scbGoSign
func scbGoSign(signerHandle, connHandle C.uint64_t, nid, pss C.int, in *C.uchar, n C.size_t, sig *C.uchar, size C.size_t, made *C.size_t) *C.char {
	conn := conns.Get(cgo.Handle(connHandle))
	conn.enterGo()
	defer conn.leaveGo()
	hash, known := hashes[nid]
	key := signers.Get(cgo.Handle(signerHandle))
	var err error
	if key == nil || !known {
		err = fmt.Errorf("libssl: no signature with OpenSSL's digest %d", nid)
	} else {
		var opts crypto.SignerOpts = hash
		if pss != 0 {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		}
		var out []byte
		out, err = callSigner(conn, *key, C.GoBytes(unsafe.Pointer(in), C.int(n)), opts)
		if err == nil && (len(out) == 0 || len(out) > int(size)) {
			err = fmt.Errorf("libssl: the signer's signature has %d bytes, of at most %d", len(out), size)
		}
		*made = C.size_t(copy(unsafe.Slice((*byte)(sig), size), out))
	}
	if err == nil {
		return nil
	}
	if conn != nil {
		conn.tls.verdict.by, conn.tls.verdict.err = bySigner, err
	}
	text, _, _ := strings.Cut(err.Error(), "\x00")
	return C.CString(text)
}

// callSigner holds an OS thread until the signer answers. The step gives its slot back, unless so many others have that only
// the slots are left to bound them. Steps of other Contexts, which the signer may need, then have the spare slots.
func callSigner(conn *Conn, key crypto.Signer, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	var ctx *Context
	if conn != nil { // otherwise C drives the SSL, on a thread of its own
		ctx = conn.ctx
		select {
		case signing <- struct{}{}:
			defer func() { <-signing }()
			conn.mayBlock()
		default:
			stepSlots.beginRemoval(ctx)
			defer stepSlots.endRemoval(ctx)
		}
	}
	signsPending.Add(1)
	defer signsPending.Add(-1)
	returned := false
	err = errSignerPanicked
	defer ctx.recoverHandler("signer", &returned, nil)
	sig, err = key.Sign(rand.Reader, digest, opts)
	returned = true
	return sig, err
}
