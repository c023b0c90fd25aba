// Package prom exports the metrics of a libssl session cache to the Prometheus client library. It is a separate module, so
// that only its users depend on that library.
package prom

import (
	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/metrics"
	"github.com/prometheus/client_golang/prometheus"
)

// NewCollector returns a collector of the metrics of a session cache and of its Context; either may be nil. Several caches
// in one registry need labels that tell them apart: see prometheus.WrapRegistererWith.
func NewCollector(sc *libssl.SessionCache, ctx *libssl.Context) prometheus.Collector {
	return collector{sc, ctx}
}

type collector struct {
	sc  *libssl.SessionCache
	ctx *libssl.Context
}

func (c collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range metrics.Of(c.sc, c.ctx) {
		var names []string
		if m.Label != "" {
			names = []string{m.Label}
		}
		desc := prometheus.NewDesc(m.Name, m.Help, names, nil)
		for _, v := range m.Values {
			var labels []string
			if m.Label != "" {
				labels = []string{v.Label}
			}
			switch m.Kind {
			case metrics.Histogram:
				out <- prometheus.MustNewConstHistogram(desc, v.Durations.Count(), v.Durations.Sum.Seconds(), buckets(v.Durations), labels...)
			case metrics.Gauge:
				out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v.Number, labels...)
			default:
				out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v.Number, labels...)
			}
		}
	}
}

// buckets returns the cumulative counts that Prometheus expects.
func buckets(h libssl.Histogram) map[float64]uint64 {
	all := make(map[float64]uint64, len(libssl.HistogramBounds))
	var upTo uint64
	for i, bound := range libssl.HistogramBounds {
		upTo += h.Counts[i]
		all[bound.Seconds()] = upTo
	}
	return all
}
