package otel_test

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/libssl-go/libssl/metrics"
	"github.com/libssl-go/libssl/metrics/metricstest"
	"github.com/libssl-go/libssl/metrics/otel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// collected returns the numbers that the reader sees, one line each in the order of the Prometheus text format, and the
// instruments.
func collected(t *testing.T, reader *sdk.ManualReader) (lines []string, all map[string]metricdata.Metrics) {
	t.Helper()
	var found metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &found))
	all = map[string]metricdata.Metrics{}
	for _, scope := range found.ScopeMetrics {
		for _, m := range scope.Metrics {
			require.NotContains(t, all, m.Name)
			all[m.Name] = m
			for _, p := range points(t, m) {
				lines = append(lines, m.Name+labels(p.Attributes)+" "+strconv.FormatFloat(p.Value, 'g', -1, 64)+"\n")
			}
		}
	}
	slices.Sort(lines)
	return lines, all
}

func points(t *testing.T, m metricdata.Metrics) []metricdata.DataPoint[float64] {
	t.Helper()
	switch data := m.Data.(type) {
	case metricdata.Sum[float64]:
		require.True(t, data.IsMonotonic, m.Name)
		require.Equal(t, metricdata.CumulativeTemporality, data.Temporality, m.Name)
		return data.DataPoints
	case metricdata.Gauge[float64]:
		return data.DataPoints
	}
	require.Fail(t, "unexpected instrument", "%s: %T", m.Name, m.Data)
	return nil
}

// labels writes attributes in the text format, le last.
func labels(set attribute.Set) string {
	var all []string
	le := ""
	for _, a := range set.ToSlice() {
		if text := fmt.Sprintf("%s=%q", a.Key, a.Value.AsString()); a.Key == "le" {
			le = text
		} else {
			all = append(all, text)
		}
	}
	if le != "" {
		all = append(all, le)
	}
	if all == nil {
		return ""
	}
	return "{" + strings.Join(all, ",") + "}"
}

func newMeter() (*sdk.ManualReader, metric.Meter) {
	reader := sdk.NewManualReader()
	return reader, sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("libssl")
}

// The instruments and WriteText give exactly the same numbers.
func TestRegister_SaysWhatTheTextFormatSays(t *testing.T) {
	sc, ctx := metricstest.Served(t)
	reader, meter := newMeter()
	registration, err := otel.Register(meter, sc, ctx)
	require.NoError(t, err)
	lines, all := collected(t, reader)

	var text bytes.Buffer
	require.NoError(t, metrics.WriteText(&text, metrics.Of(sc, ctx)))
	var written []string
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "#") {
			written = append(written, line)
		}
	}
	slices.Sort(written)
	require.Equal(t, written, lines)
	require.Contains(t, lines, `libssl_handshake_seconds_count{kind="full"} 1`+"\n")
	for _, m := range metrics.Of(sc, ctx) {
		for _, s := range m.Samples() {
			require.Equal(t, m.Help, all[s.Name].Description)
			require.IsType(t, map[bool]metricdata.Aggregation{
				true: metricdata.Gauge[float64]{}, false: metricdata.Sum[float64]{},
			}[m.Kind == metrics.Gauge], all[s.Name].Data)
		}
	}

	require.NoError(t, registration.Unregister())
	lines, _ = collected(t, reader)
	require.Empty(t, lines)
}

// Two caches on one meter are told apart by their attributes, and either half of a pair may be absent.
func TestRegister_TellsCachesApart(t *testing.T) {
	sc, ctx := metricstest.Served(t)
	other, _ := metricstest.Served(t)
	reader, meter := newMeter()
	_, err := otel.Register(meter, sc, nil, attribute.String("node", "a"))
	require.NoError(t, err)
	_, err = otel.Register(meter, other, nil, attribute.String("node", "b"))
	require.NoError(t, err)
	lines, _ := collected(t, reader)
	for _, node := range []string{"a", "b"} {
		require.Contains(t, lines, `libssl_handshake_seconds_count{kind="full",node="`+node+`"} 1`+"\n")
	}
	require.NotContains(t, strings.Join(lines, ""), "libssl_context_")

	reader, meter = newMeter()
	_, err = otel.Register(meter, nil, ctx)
	require.NoError(t, err)
	lines, _ = collected(t, reader)
	require.NotEmpty(t, lines)
	for _, line := range lines {
		require.True(t, strings.HasPrefix(line, "libssl_context_"), line)
	}
}

// refusing is a meter that fails to make one kind of instrument.
type refusing struct{ noop.Meter }

func (refusing) Float64ObservableGauge(string, ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	return nil, errors.New("no gauges")
}

func TestRegister_FailsWithTheMeter(t *testing.T) {
	sc, ctx := metricstest.Served(t)
	_, err := otel.Register(refusing{}, sc, ctx)
	require.ErrorContains(t, err, "no gauges")
}

// The package depends on the API only: the program chooses the SDK.
func TestImports_NoSDK(t *testing.T) {
	deps, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	require.Contains(t, string(deps), "go.opentelemetry.io/otel/metric\n")
	require.NotContains(t, string(deps), "go.opentelemetry.io/otel/sdk")
}
