package libssl

// #include "bridge.h"
import "C"

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/libssl-go/libssl/internal/ownfile"
)

// Certificate is a certificate with its chain and its key, for any number of Contexts. All methods are safe for concurrent
// use.
//
// Ownership: close it when no Context is to be given it any more. Contexts and connections that use it keep what they
// need. A forgotten Certificate is given back by the collector, and counted.
type Certificate struct {
	p       *C.scb_cert
	refs    atomic.Int32 // one until Close, and one for each call under way; the last one frees p
	closed  atomic.Bool
	cleanup runtime.Cleanup
	leaf    func() (*x509.Certificate, error)
}

var liveCertificates, forgottenCertificates atomic.Int64

// KeyOptions say how a private key is opened.
type KeyOptions struct {
	// Passphrase is asked once if the key is encrypted. Without it an encrypted key is an error.
	Passphrase func() ([]byte, error)
}

// LoadCertificate reads a certificate chain, the leaf first, and its key, each in PEM or DER. With keyFile empty, certFile
// is a PKCS#12 file, or a PEM file with both. opt may be nil. Errors name the file and what is wrong with it.
//
// The file with the key is refused if another user than that of the process or root may have put it there; see
// ticket.LoadRing. Corresponds to PEM_read_bio_PrivateKey(3), d2i_PKCS8PrivateKey_bio(3) and PKCS12_parse(3).
func LoadCertificate(certFile, keyFile string, opt *KeyOptions) (*Certificate, error) {
	var cert, key []byte
	var err error
	if keyFile == "" {
		cert, err = readKeyFile(certFile)
		defer func() { clear(cert) }()
	} else if cert, err = os.ReadFile(certFile); err == nil {
		key, err = readKeyFile(keyFile)
		defer func() { clear(key) }()
	}
	if err != nil {
		return nil, fmt.Errorf("libssl: load certificate: %w", err)
	}
	return parseCertificate("load certificate", keySource{certFile, cert}, keySource{keyFile, key}, opt)
}

// readKeyFile reads a file with a key. Its errors name the file also where it is a folder or a link that is at fault.
func readKeyFile(name string) ([]byte, error) {
	content, _, err := ownfile.Self().Read(name)
	if err != nil && !strings.Contains(err.Error(), name) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return content, err
}

// ParseCertificate is LoadCertificate for content at hand. With key empty, cert is PKCS#12, or PEM with both.
func ParseCertificate(cert, key []byte, opt *KeyOptions) (*Certificate, error) {
	return parseCertificate("parse certificate", keySource{"the certificate", cert}, keySource{"the key", key}, opt)
}

// keySource is where a certificate or key comes from, for errors.
type keySource struct {
	name    string
	content []byte
}

func (s keySource) isPEM() bool { return bytes.Contains(s.content, []byte("-----BEGIN ")) }

func (s keySource) has(pemType string) bool {
	return bytes.Contains(s.content, []byte(pemType+"-----"))
}

const maxCertificate = 16 << 20

func (s keySource) checkSize() error {
	switch {
	case len(s.content) == 0:
		return fmt.Errorf("%s is empty", s.name)
	case len(s.content) > maxCertificate:
		return fmt.Errorf("%s is larger than %d bytes", s.name, maxCertificate)
	}
	return nil
}

// check finds what a user is likely to get wrong, in words that OpenSSL does not have.
func (s keySource) check(key bool) error {
	isKey, isCert := s.has("PRIVATE KEY"), s.has("CERTIFICATE")
	switch {
	case s.checkSize() != nil:
		return s.checkSize()
	case s.isPEM() && key && isCert && !isKey:
		return fmt.Errorf("%s holds a certificate and no key: are the arguments swapped?", s.name)
	case s.isPEM() && !key && isKey && !isCert:
		return fmt.Errorf("%s holds a key and no certificate: are the arguments swapped?", s.name)
	}
	return nil
}

func parseCertificate(op string, cert, key keySource, opt *KeyOptions) (*Certificate, error) {
	fail := func(err error) (*Certificate, error) { return nil, fmt.Errorf("libssl: %s: %w", op, err) }
	if err := cert.check(false); err != nil {
		return fail(err)
	}
	switch {
	case key.content != nil:
		if err := key.check(true); err != nil {
			return fail(err)
		}
	case cert.isPEM():
		key = cert
	default:
		key.name = cert.name // PKCS#12
	}
	return readCertificate(op, cert.name, key.name, opt, func(passphrase *C.char, n C.size_t) C.scb_cert_read {
		return C.scb_cert_parse(bytesPtr(cert.content), C.int(len(cert.content)), cbool(cert.isPEM()),
			bytesPtr(key.content), C.int(len(key.content)), cbool(key.isPEM()), passphrase, n)
	})
}

// readCertificate reads without a passphrase, and then with one if it is asked for. cert and key name the sources, for errors.
func readCertificate(op, cert, key string, opt *KeyOptions, read func(passphrase *C.char, n C.size_t) C.scb_cert_read) (*Certificate, error) {
	fail := func(err error) (*Certificate, error) { return nil, fmt.Errorf("libssl: %s: %w", op, err) }
	var passphrase []byte // with a zero byte at its end
	defer func() { clear(passphrase) }()
	for {
		r := read((*C.char)(unsafe.Pointer(unsafe.SliceData(passphrase))), C.size_t(max(0, len(passphrase)-1)))
		if r.cert != nil {
			return newCertificate(r.cert), nil
		}
		failed := takeError("", 0, r.errs)
		switch {
		case r.why == C.SCB_CERT_OTHER_KEY:
			return fail(fmt.Errorf("the key in %s does not belong to the certificate in %s: %w", key, cert, failed))
		case r.why == C.SCB_CERT_NO_CERT:
			return fail(fmt.Errorf("%s: no certificate, or a damaged one: %w", cert, failed))
		case r.why == C.SCB_CERT_NO_KEY:
			return fail(fmt.Errorf("%s: no private key, or a damaged one: %w", key, failed))
		case r.why == C.SCB_CERT_SCHEME:
			return fail(fmt.Errorf("%s: no provider knows the scheme; OpenSSL has loaded %s: %w", cert, loadedProviders(nil), failed))
		case r.why == C.SCB_CERT_MANY:
			return fail(fmt.Errorf("%s: too many keys or certificates: name one", cert))
		case r.why != C.SCB_CERT_PASSPHRASE && r.why != C.SCB_CERT_HIDDEN:
			return fail(fmt.Errorf("%s: %w", cert, failed))
		case passphrase != nil && r.why == C.SCB_CERT_HIDDEN:
			return fail(fmt.Errorf("%s: no private key, or the wrong passphrase: %w", key, failed))
		case passphrase != nil:
			return fail(fmt.Errorf("%s: wrong passphrase: %w", key, failed))
		case opt == nil || opt.Passphrase == nil:
			return fail(fmt.Errorf("%s is encrypted or needs a PIN, and KeyOptions have no Passphrase", key))
		}
		word, err := opt.Passphrase()
		if err != nil {
			return fail(fmt.Errorf("%s: passphrase: %w", key, err))
		}
		passphrase = append(append(make([]byte, 0, len(word)+1), word...), 0)
	}
}

func newCertificate(p *C.scb_cert) *Certificate {
	c := &Certificate{p: p}
	c.refs.Store(1)
	liveCertificates.Add(1)
	c.cleanup = runtime.AddCleanup(c, func(p *C.scb_cert) {
		C.scb_cert_free(p)
		liveCertificates.Add(-1)
		forgottenCertificates.Add(1)
	}, p)
	c.leaf = sync.OnceValues(c.parseLeaf)
	return c
}

// acquire keeps p until release.
func (c *Certificate) acquire() error {
	if c == nil {
		return ErrClosed
	}
	for n := c.refs.Load(); n > 0 && !c.closed.Load(); n = c.refs.Load() {
		if c.refs.CompareAndSwap(n, n+1) {
			return nil
		}
	}
	return ErrClosed
}

func (c *Certificate) release() {
	if c.refs.Add(-1) == 0 {
		c.cleanup.Stop()
		C.scb_cert_free(c.p)
		liveCertificates.Add(-1)
	}
}

// Close gives the Certificate back. It is idempotent.
func (c *Certificate) Close() error {
	if c != nil && c.closed.CompareAndSwap(false, true) {
		c.release()
	}
	return nil
}

// Leaf is the certificate itself, for its names and its validity. It is an error if crypto/x509 does not accept what
// OpenSSL does.
func (c *Certificate) Leaf() (*x509.Certificate, error) {
	if c == nil {
		return nil, ErrClosed
	}
	return c.leaf()
}

func (c *Certificate) parseLeaf() (*x509.Certificate, error) {
	if err := c.acquire(); err != nil {
		return nil, err
	}
	defer c.release()
	var out *C.uchar
	n := C.scb_cert_leaf(c.p, &out)
	der := C.GoBytes(unsafe.Pointer(out), C.int(n))
	C.scb_wipe(unsafe.Pointer(out), n)
	return x509.ParseCertificate(der)
}

// SetOCSPStaple sets the OCSP response that servers send with the certificate to clients that ask for it, also where the
// certificate is in use; nil ends that. It is not checked. A closed Certificate stays as it is. Corresponds to
// SSL_set_tlsext_status_ocsp_resp(3).
func (c *Certificate) SetOCSPStaple(der []byte) {
	if c.acquire() == nil {
		C.scb_cert_staple(c.p, bytesPtr(der), C.size_t(len(der))) // fails only without memory: then the old one stays
		c.release()
	}
}

// UseCertificate sets the certificates of the Context, each with another type of key: OpenSSL chooses by the signature
// schemes and ciphers of the client. They replace all that the Context had, at once, and may be set while it serves: new
// connections have the new set, whole. A client Context sends one if the server asks for it. After an error the old set
// stays. Corresponds to SSL_use_cert_and_key(3) on each new connection.
//
// Certificates of an SSL_CTX that C made are set in C: there it answers ErrUnsupported.
func (c *Context) UseCertificate(certs ...*Certificate) error {
	if len(certs) == 0 {
		return errors.New("libssl: use certificate: none was given")
	}
	return c.useCertificates(C.SCB_REPLACE_ALL, certs...)
}

// useCertificates keeps, with SCB_KEEP_OTHERS, those of other types of key than the first.
func (c *Context) useCertificates(others C.int, certs ...*Certificate) error {
	if c != nil && !c.made {
		return unsupported("certificates from Go on an SSL_CTX that C made")
	}
	all := make([]*C.scb_cert, 0, len(certs))
	for _, cert := range certs {
		if err := cert.acquire(); err != nil {
			return fmt.Errorf("libssl: use certificate: %w", err)
		}
		defer cert.release()
		all = append(all, cert.p)
	}
	sameType := false
	err := c.set("use certificate", func(p *C.SSL_CTX, errs **C.scb_errs) C.int {
		ret := C.scb_ctx_use_certs(p, unsafe.SliceData(all), C.int(len(all)), others, errs)
		sameType = ret == C.SCB_SAME_KEY_TYPE
		return ret
	})
	if sameType {
		return fmt.Errorf("libssl: use certificate: two have the same type of key: %w", err)
	}
	return err
}

// hasSet reports whether UseCertificate has set the certificates.
func (c *Context) hasSet() bool {
	p, err := c.acquire()
	if err != nil {
		return false
	}
	defer c.release()
	return C.scb_ctx_has_set(p) != 0
}

// CertificateExpires is the earliest end of validity among the certificates that the Context has, the zero time if it has
// none. Those that callbacks choose do not count. On an SSL_CTX with which C makes SSLs it is the one certificate that
// SSL_CTX_get0_certificate returns. Corresponds to X509_get0_notAfter(3).
func (c *Context) CertificateExpires() (t time.Time) {
	p, err := c.acquire()
	if err != nil {
		return t
	}
	defer c.release()
	defer c.changeSettings(p)()
	if end := C.scb_ctx_expires(p); end != 0 {
		t = time.Unix(int64(end), 0)
	}
	return t
}

// WatchCertificate loads the certificate chain and its key from files and uses them, and does so again when the files
// change: by a write, a rename or a switched link. It checks them every interval. While the new files cannot be read or do not fit each
// other, the Context keeps the certificate that it has, and onError, which may be nil, is told once for each change. stop
// ends the watching and waits until it has ended.
func (c *Context) WatchCertificate(certFile, keyFile string, interval time.Duration, onError func(error)) (stop func(), err error) {
	if interval <= 0 {
		return nil, fmt.Errorf("libssl: watch certificate: an interval of %s", interval)
	}
	seen := pairOf(certFile, keyFile) // before loading, so that the next check notices a change in between
	use := func() error {
		cert, err := LoadCertificate(certFile, keyFile, nil)
		if err != nil {
			return err
		}
		defer cert.Close()
		return c.UseCertificate(cert)
	}
	if err := use(); err != nil {
		return nil, err
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now := pairOf(certFile, keyFile)
			if now.same(seen) {
				continue
			}
			seen = now
			if err := use(); err != nil && onError != nil {
				onError(err)
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() { close(done) })
		<-ended
	}, nil
}

// filePair is compared to notice that one of two files has changed. A file that cannot be found is nil.
type filePair [2]os.FileInfo

func pairOf(certFile, keyFile string) (p filePair) {
	p[0], _ = os.Stat(certFile)
	p[1], _ = os.Stat(keyFile)
	return p
}

func (p filePair) same(q filePair) bool {
	for i := range p {
		if (p[i] == nil) != (q[i] == nil) {
			return false
		}
		if p[i] != nil && !(os.SameFile(p[i], q[i]) && p[i].ModTime().Equal(q[i].ModTime()) && p[i].Size() == q[i].Size()) {
			return false
		}
	}
	return true
}
