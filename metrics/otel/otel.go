// Package otel exports the metrics of a libssl session cache to the metrics API of OpenTelemetry. It is a separate module,
// so that only its users depend on OpenTelemetry.
package otel

import (
	"context"

	"github.com/libssl-go/libssl"
	"github.com/libssl-go/libssl/metrics"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Register makes meter observe the metrics of a session cache and of its Context at each collection, until Unregister.
// Either may be nil. The attributes are added to all metrics: several caches on one meter need attributes that tell them
// apart.
//
// Names are those of package metrics, and labels become attributes. OpenTelemetry cannot observe a histogram that is
// already counted. So a histogram becomes the counters of the Prometheus text format: _bucket with the attribute le, _sum
// and _count.
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
