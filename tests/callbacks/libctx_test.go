package callbacks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/internal/cref"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/libssl-go/libssl/ticket"
	"github.com/stretchr/testify/require"
)

// oneProvider is a configuration of OpenSSL.
const oneProvider = "openssl_conf = init\n[init]\nproviders = all\n[all]\n%s = one\n[one]\nactivate = 1\n"

// libCtx makes a library context. False is the answer on an OpenSSL that has none.
func libCtx(t *testing.T, config string) (unsafe.Pointer, bool) {
	t.Helper()
	if strings.HasPrefix(libssl.Version(), "OpenSSL 1.1.1") {
		var other int
		_, err := libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{LibCtx: unsafe.Pointer(&other)})
		require.ErrorIs(t, err, libssl.ErrUnsupported)
		return nil, false
	}
	file := filepath.Join(t.TempDir(), "openssl.cnf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	ctx := cref.NewLibCtx(file)
	require.NotNil(t, ctx)
	return ctx, true
}

// verified are a server that demands a certificate of its clients, and such a client.
type verified struct {
	ca             *tlstest.CA
	client, server *libssl.Context
}

func (m mode) verified(t *testing.T, opt libssl.ContextOptions) verified {
	t.Helper()
	with := func(r libssl.Role) *libssl.Context {
		ctx, err := libssl.NewContextWith(r, opt)
		require.NoError(t, err)
		t.Cleanup(func() { ctx.Close() })
		return ctx
	}
	ca := tlstest.NewCA(t, "ca")
	v := verified{ca, with(libssl.ClientRole), with(libssl.ServerRole)}
	mid := ca.Intermediate(t, "intermediate")
	use := func(ctx *libssl.Context, issuer *tlstest.CA, host string, chain ...byte) {
		cert, key := issuer.Leaf(t, host)
		c, err := libssl.ParseCertificate(append(cert, chain...), key, nil)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, ctx.UseCertificate(c))
	}
	use(v.client, mid, "client", mid.PEM...)
	use(v.server, ca, name)
	require.NoError(t, v.client.AddRootCAsPEM(ca.PEM))
	require.NoError(t, v.server.AddClientCAsPEM(ca.PEM))
	require.NoError(t, v.server.AddCRLsPEM(append(ca.CRL(t), mid.CRL(t)...)))
	require.NoError(t, v.server.SetVerify(libssl.VerifyRequirePeer))
	require.NoError(t, v.server.SetVersions(m.version, m.version))
	return v
}

// signed is a certificate for the server whose key signs in Go.
func (v verified) signed(t *testing.T) *libssl.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	cert, _ := v.ca.LeafWithKey(t, k, name)
	block, _ := pem.Decode(cert)
	signed, err := libssl.SignerCertificate([][]byte{block.Bytes}, k)
	require.NoError(t, err)
	t.Cleanup(func() { signed.Close() })
	return signed
}

// resumes shares sessions in the way of the mode, and makes a full handshake and a resumption.
func (v verified) resumes(t *testing.T, m mode) {
	t.Helper()
	if m.asks {
		useStore(t, v.server, memstore.New(memstore.Options{}), nil)
	} else {
		ring, err := ticket.NewRing()
		require.NoError(t, err)
		require.NoError(t, v.server.SetSessionIDContext([]byte("tests/callbacks")))
		require.NoError(t, v.server.UseTicketKeys(ring))
	}
	l := linkGo(t, v.client, v.server, nil).closed()
	defer l.session.Release()
	require.False(t, l.reused)
	again := linkGo(t, v.client, v.server, l.session).closed()
	defer again.session.Release()
	require.True(t, again.reused)
}

// Nothing comes from the default library context once the certificates are there: from then on no algorithm matches its
// default properties.
func TestLibCtx_HasAllAlgorithms(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			lib, ok := libCtx(t, fmt.Sprintf(oneProvider, "default"))
			if !ok {
				return
			}
			v := m.verified(t, libssl.ContextOptions{LibCtx: lib, Properties: "?provider=default"})
			signed := v.signed(t)
			require.True(t, cref.SetDefaultProperties("absent=yes"))
			defer cref.SetDefaultProperties("")
			_, err := libssl.NewContext(libssl.ServerRole)
			require.ErrorContains(t, err, "is a module missing")
			require.NoError(t, v.server.UseCertificate(signed))
			v.resumes(t, m)
		})
	}
}

func TestLibCtx_WithoutAlgorithms(t *testing.T) {
	lib, ok := libCtx(t, fmt.Sprintf(oneProvider, "base"))
	if !ok {
		return
	}
	_, err := libssl.NewContextWith(libssl.ServerRole, libssl.ContextOptions{LibCtx: lib})
	require.ErrorContains(t, err, "OpenSSL has loaded the providers base, and")
}

// fipsModule is the FIPS provider, or "".
func fipsModule() string {
	patterns := []string{filepath.Join(os.Getenv("OPENSSL_MODULES"), "fips.so")}
	if os.Getenv("OPENSSL_MODULES") == "" {
		// That of 3.5 serves 3.0 too.
		patterns = []string{"/usr/lib*/*/ossl-modules/fips.so", "../../.sysroots/3.5/usr/lib/*/ossl-modules/fips.so"}
	}
	for _, pattern := range patterns {
		if all, _ := filepath.Glob(pattern); len(all) > 0 {
			module, err := filepath.Abs(all[0])
			if err == nil {
				return module
			}
		}
	}
	return ""
}

// fipsConfig has the checksum of the module, as fipsinstall(1) would write it.
func fipsConfig(t *testing.T, module string) string {
	t.Helper()
	content, err := os.ReadFile(module)
	require.NoError(t, err)
	key, err := hex.DecodeString("f4556650ac31d35461610bac4ed81b1a181b2d8a43ea2854cbae22ca74560813") // FIPS_KEY_STRING
	require.NoError(t, err)
	mac := hmac.New(sha256.New, key)
	mac.Write(content)
	sum := strings.ReplaceAll(fmt.Sprintf("% X", mac.Sum(nil)), " ", ":")
	return "openssl_conf = init\n[init]\nproviders = all\n[all]\nfips = checked\nbase = one\n[one]\nactivate = 1\n" +
		"[checked]\nmodule = " + module + "\nactivate = 1\nmodule-mac = " + sum + "\n"
}

func TestLibCtx_FIPS(t *testing.T) {
	module := fipsModule()
	if module == "" {
		t.Skip("the FIPS provider is missing: Debian has it from trixie on, as openssl-provider-fips")
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			lib, ok := libCtx(t, fipsConfig(t, module))
			require.True(t, ok)
			v := m.verified(t, libssl.ContextOptions{LibCtx: lib, Properties: "fips=yes"})
			v.resumes(t, m)
			require.Error(t, v.server.SetCipherSuites("TLS_CHACHA20_POLY1305_SHA256"), "too late, and not FIPS's")
		})
	}
}
