package prom_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/metrics"
	"github.com/libssl-go/libssl/metrics/prom"
	"github.com/libssl-go/libssl/store/memstore"
	"github.com/libssl-go/libssl/tests/tlstest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
)

// served is a cache that has made a full handshake.
func served(t *testing.T) (*libssl.SessionCache, *libssl.Context) {
	ctx, err := libssl.NewContext(libssl.ServerRole)
	require.NoError(t, err)
	t.Cleanup(func() { ctx.Close() })
	require.NoError(t, ctx.UseCertificatePEM(tlstest.NewCA(t, "ca").Leaf(t, "localhost")))
	sc, err := ctx.UseStore(memstore.New(memstore.Options{}), nil)
	require.NoError(t, err)
	t.Cleanup(func() { sc.Close(t.Context()) })
	client, err := libssl.NewContext(libssl.ClientRole)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	require.NoError(t, client.SetVerify(libssl.VerifyNone))

	cn, sn := net.Pipe()
	s, err := libssl.Server(sn, ctx)
	require.NoError(t, err)
	c, err := libssl.Client(cn, client, "localhost")
	require.NoError(t, err)
	go s.Write([]byte("x"))
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	c.Abort()
	s.Abort()
	return sc, ctx
}

// What the collector says and what WriteText writes are the same to the letter, their order aside.
func TestCollector_SaysWhatTheTextFormatSays(t *testing.T) {
	sc, ctx := served(t)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(prom.NewCollector(sc, ctx)))
	families, err := registry.Gather()
	require.NoError(t, err)
	var collected bytes.Buffer
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(&collected, f)
		require.NoError(t, err)
	}

	var written bytes.Buffer
	require.NoError(t, metrics.WriteText(&written, metrics.Of(sc, ctx)))
	lines := func(b bytes.Buffer) []string { return slices.Sorted(strings.Lines(b.String())) }
	require.Equal(t, lines(collected), lines(written))
	text := collected.String()
	require.Contains(t, text, `libssl_handshake_seconds_count{kind="full"} 1`)
	require.Contains(t, text, `libssl_store_entries_total{operation="stored"} 2`)
	require.Contains(t, text, `libssl_context_handshakes_total{event="accept_good"} 1`)
}

func TestCollector_DoesWithOneOfTheTwo(t *testing.T) {
	sc, ctx := served(t)
	for name, c := range map[string]prometheus.Collector{"cache": prom.NewCollector(sc, nil), "context": prom.NewCollector(nil, ctx)} {
		registry := prometheus.NewPedanticRegistry()
		require.NoError(t, registry.Register(c), name)
		families, err := registry.Gather()
		require.NoError(t, err)
		require.NotEmpty(t, families)
		for _, f := range families {
			require.Equal(t, name == "context", strings.HasPrefix(f.GetName(), "libssl_context_"), f.GetName())
		}
	}
}

// The dashboard asks for metrics that exist.
func TestDashboard_NamesWhatIsCollected(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.True(t, json.Valid(text))
	sc, ctx := served(t)
	known := map[string]bool{}
	for _, m := range metrics.Of(sc, ctx) {
		known[m.Name] = true
	}
	asked := regexp.MustCompile(`libssl_[a-z_]+`).FindAllString(string(text), -1)
	require.NotEmpty(t, asked)
	for _, name := range asked {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
		require.True(t, known[name], "%s is not collected", name)
	}
}
