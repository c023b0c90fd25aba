// Package metrics defines the names and help texts of the metrics of a session cache and its Context, once for all
// exporters. It depends on no monitoring system. Package metrics/prom exports to Prometheus and metrics/otel to
// OpenTelemetry, each as a separate module.
package metrics

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/libssl-go/libssl"
)

// Kind is the type of a metric.
type Kind string

const (
	Counter   Kind = "counter"   // only grows
	Gauge     Kind = "gauge"     // the current value
	Histogram Kind = "histogram" // counts durations, in seconds
)

// Metric is one metric with one value for each value of its label.
type Metric struct {
	Name, Help string
	Kind       Kind
	Label      string // empty: a single value without a label
	Values     []Value
}

// Value is one value of a metric.
type Value struct {
	Label     string
	Number    float64
	Durations libssl.Histogram // set if the metric is a Histogram
}

// Of reads the metrics of a session cache and of its Context; either may be nil.
func Of(sc *libssl.SessionCache, ctx *libssl.Context) (all []Metric) {
	if sc != nil {
		all = ofCache(sc.Stats())
	}
	if ctx != nil {
		all = append(all, ofContext(ctx.Stats())...)
		all = append(all, expiryOf(ctx.CertificateExpires()))
	}
	return all
}

func one(name, help string, kind Kind, n float64) Metric {
	return Metric{Name: name, Help: help, Kind: kind, Values: []Value{{Number: n}}}
}

func ofCache(s libssl.CacheStats) []Metric {
	return []Metric{
		{
			Name: "libssl_session_lookups_total", Kind: Counter, Label: "result",
			Help: "Sessions that clients asked to resume, by the result of the lookup.",
			Values: []Value{
				{Label: "hit", Number: float64(s.Hits)},
				{Label: "miss", Number: float64(s.Misses - s.Untagged)},
				{Label: "untagged", Number: float64(s.Untagged)},
				{Label: "undecodable", Number: float64(s.Undecodable)},
				{Label: "rejected", Number: float64(s.Rejected)},
				{Label: "late", Number: float64(s.LookupTimeouts)},
				{Label: "error", Number: float64(s.LookupErrors)},
				{Label: "skipped", Number: float64(s.LookupsSkipped)},
			},
		},
		rejectedOf(s),
		{
			Name: "libssl_store_failures_total", Kind: Counter, Label: "kind",
			Help: "Store operations that failed, were late, were skipped or were lost, and sessions too large to be stored.",
			Values: []Value{
				{Label: "error", Number: float64(s.Errors)},
				{Label: "late", Number: float64(s.Timeouts)},
				{Label: "skipped", Number: float64(s.Skipped)},
				{Label: "lost", Number: float64(s.Lost)},
				{Label: "too large", Number: float64(s.TooLarge)},
			},
		},
		{
			Name: "libssl_store_entries_total", Kind: Counter, Label: "operation",
			Help: "Changes of store entries.",
			Values: []Value{
				{Label: "stored", Number: float64(s.Stored)},
				{Label: "removed", Number: float64(s.Removed)},
				{Label: "taken", Number: float64(s.Taken)},
				{Label: "put back", Number: float64(s.PutBack)},
			},
		},
		{
			Name: "libssl_store_seconds", Kind: Histogram, Label: "operation",
			Help:   "Duration of store operations.",
			Values: []Value{{Label: "get", Durations: s.Get}, {Label: "put", Durations: s.Put}},
		},
		{
			Name: "libssl_handshake_seconds", Kind: Histogram, Label: "kind",
			Help:   "Duration of handshakes, including the waits for the peer and the store.",
			Values: []Value{{Label: "full", Durations: s.Full}, {Label: "resumed", Durations: s.Resumed}},
		},
		one("libssl_handshakes_suspended_total", "Handshakes that were parked for a lookup.", Counter, float64(s.Suspended)),
		one("libssl_handshakes_parked", "Handshakes that are parked for a lookup now.", Gauge, float64(s.Parked)),
		one("libssl_store_queue", "Store operations that are queued now.", Gauge, float64(s.Queue)),
		one("libssl_store_breaker_open", "1 while a circuit breaker keeps lookups or writes from a failing store, else 0.", Gauge, gauge(s.Open)),
	}
}

func rejectedOf(s libssl.CacheStats) Metric {
	m := Metric{
		Name: "libssl_session_rejected_total", Kind: Counter, Label: "reason",
		Help: "Store entries that were not given to OpenSSL.",
	}
	for _, r := range libssl.Rejections() {
		m.Values = append(m.Values, Value{Label: r.String(), Number: float64(s.RejectedFor[r])})
	}
	return m
}

func gauge(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

func ofContext(s libssl.Stats) []Metric {
	return []Metric{
		one("libssl_context_sessions", "Sessions in OpenSSL's internal cache now.", Gauge, float64(s.Number)),
		{
			Name: "libssl_context_handshakes_total", Kind: Counter, Label: "event",
			Help: "Counters that OpenSSL keeps for the context: SSL_CTX_sess_accept and the related functions.",
			Values: []Value{
				{Label: "accept", Number: float64(s.Accept)},
				{Label: "accept_good", Number: float64(s.AcceptGood)},
				{Label: "connect", Number: float64(s.Connect)},
				{Label: "connect_good", Number: float64(s.ConnectGood)},
				{Label: "hits", Number: float64(s.Hits)},
				{Label: "cb_hits", Number: float64(s.CallbackHits)},
				{Label: "misses", Number: float64(s.Misses)},
				{Label: "timeouts", Number: float64(s.Timeouts)},
				{Label: "cache_full", Number: float64(s.CacheFull)},
			},
		},
		one("libssl_context_handshakes_under_way", "Handshakes of connections in Go that run now.", Gauge, float64(s.HandshakesUnderWay)),
		failedOf(s),
	}
}

func failedOf(s libssl.Stats) Metric {
	m := Metric{
		Name: "libssl_context_handshakes_failed_total", Kind: Counter, Label: "reason",
		Help: "Handshakes of connections in Go that failed.",
	}
	for _, f := range libssl.HandshakeFailures() {
		m.Values = append(m.Values, Value{Label: f.String(), Number: float64(s.HandshakesFailed[f])})
	}
	return m
}

func expiryOf(t time.Time) Metric {
	n := math.NaN()
	if !t.IsZero() {
		n = float64(t.Unix())
	}
	return one("libssl_context_certificate_expires_timestamp_seconds",
		"When the first certificate of the context expires, in seconds since 1970; NaN without a certificate.", Gauge, n)
}

// Sample is one number of a metric: a value, or a part of a Histogram.
type Sample struct {
	Name   string
	Labels []Label
	Number float64
}

// Label is a label with its value.
type Label struct{ Name, Value string }

// Samples returns the numbers of the metric with the names that Prometheus uses. A Histogram gives, for each value, its
// buckets, its sum and its count. Buckets are cumulative and have their bound in label le.
func (m Metric) Samples() (all []Sample) {
	for _, v := range m.Values {
		var labels []Label
		if m.Label != "" {
			labels = []Label{{m.Label, v.Label}}
		}
		if m.Kind != Histogram {
			all = append(all, Sample{m.Name, labels, v.Number})
			continue
		}
		var upTo uint64
		for i, n := range v.Durations.Counts {
			le := math.Inf(1)
			if i < len(libssl.HistogramBounds) {
				le = libssl.HistogramBounds[i].Seconds()
			}
			upTo += n
			all = append(all, Sample{m.Name + "_bucket", append(slices.Clip(labels), Label{"le", number(le)}), float64(upTo)})
		}
		all = append(all, Sample{m.Name + "_sum", labels, v.Durations.Sum.Seconds()}, Sample{m.Name + "_count", labels, float64(upTo)})
	}
	return all
}

// WriteText writes the metrics in the text format that Prometheus scrapes.
func WriteText(w io.Writer, all []Metric) error {
	b := bufio.NewWriter(w)
	for _, m := range all {
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, m.Kind)
		for _, s := range m.Samples() {
			b.WriteString(s.Name)
			for i, l := range s.Labels {
				b.WriteByte("{,"[min(i, 1)])
				b.WriteString(l.Name + "=" + strconv.Quote(l.Value))
			}
			if len(s.Labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteString(" " + number(s.Number) + "\n")
		}
	}
	return b.Flush()
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
