// Package otel hands what a libssl session cache counts to OpenTelemetry's metrics API. It is a module of its own, so
// that only who wants it depends on that.
package otel

import (
	"context"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/metrics"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Register has meter observe the metrics of a session cache and of the Context it is on, either of which may be nil,
// whenever it collects, until Unregister. The attributes go with all of them: several caches on one meter need some
// that tell them apart.
//
// Names, and labels as attributes, are those of package metrics. OpenTelemetry observes no histograms that somebody
// else has counted, so each is here what it is in Prometheus' text format: counters _bucket, with the attribute le,
// _sum and _count.
func Register(meter metric.Meter, sc *libssl.SessionCache, ctx *libssl.Context, attrs ...attribute.KeyValue) (metric.Registration, error) {
	observed := map[string]metric.Float64Observable{}
	var all []metric.Observable
	for _, m := range metrics.Of(sc, ctx) {
		for _, s := range m.Samples() {
			if observed[s.Name] != nil {
				continue
			}
			o, err := instrument(meter, m, s.Name)
			if err != nil {
				return nil, err
			}
			observed[s.Name] = o
			all = append(all, o)
		}
	}
	return meter.RegisterCallback(func(_ context.Context, out metric.Observer) error {
		for _, m := range metrics.Of(sc, ctx) {
			for _, s := range m.Samples() {
				out.ObserveFloat64(observed[s.Name], s.Number, metric.WithAttributes(append(attributes(s.Labels), attrs...)...))
			}
		}
		return nil
	}, all...)
}

func instrument(meter metric.Meter, m metrics.Metric, name string) (metric.Float64Observable, error) {
	if m.Kind == metrics.Gauge {
		return meter.Float64ObservableGauge(name, metric.WithDescription(m.Help))
	}
	return meter.Float64ObservableCounter(name, metric.WithDescription(m.Help))
}

func attributes(labels []metrics.Label) []attribute.KeyValue {
	all := make([]attribute.KeyValue, len(labels))
	for i, l := range labels {
		all[i] = attribute.String(l.Name, l.Value)
	}
	return all
}
