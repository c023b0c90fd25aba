package prom_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/libssl-go/libssl/metrics"
	"github.com/libssl-go/libssl/metrics/metricstest"
	"github.com/libssl-go/libssl/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
)

// The collector and WriteText give exactly the same numbers, in any order.
func TestCollector_SaysWhatTheTextFormatSays(t *testing.T) {
	sc, ctx := metricstest.Served(t)
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
	require.Contains(t, text, `libssl_context_handshakes_failed_total{reason="timeout"} 0`)
	require.Contains(t, text, "libssl_context_certificate_expires_timestamp_seconds "+strconv.FormatFloat(float64(ctx.CertificateExpires().Unix()), 'g', -1, 64)+"\n")
}

func TestCollector_DoesWithOneOfTheTwo(t *testing.T) {
	sc, ctx := metricstest.Served(t)
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

// Every metric that the dashboard queries exists.
func TestDashboard_NamesWhatIsCollected(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.True(t, json.Valid(text))
	sc, ctx := metricstest.Served(t)
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
