// Package metrics counts what the program does and tells it to Prometheus. It owns every metric's name, unit and labels; the
// other packages say only what happened. Labels hold names from the configuration and words from closed lists, never what a
// client chose, so that nobody outside can make their number grow.
//
// What happens is counted as it does: counters.go. What is, such as the role of each server, is looked up when somebody asks:
// gauges.go. docs/operations.md lists the metrics for those who read them.
package metrics

import (
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "pgreplicaproxy"

// Metrics counts. A nil *Metrics counts nothing. All methods may be called from anywhere.
type Metrics struct {
	registry *prometheus.Registry
	counters
	sessions sync.Map // of sessionKey to *Session
}

// New returns metrics of a registry of their own, with those of Go and of the process beside the program's.
func New(version, goVersion string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), counters: newCounters()}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels tell what was built.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": goVersion},
	})
	build.Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.all()...)
	return m
}

// Watch makes sources known, once.
func (m *Metrics) Watch(s Sources) {
	if m != nil {
		m.registry.MustRegister(gauges{s})
	}
}

// Handler serves the metrics in Prometheus' formats. update, where it is not nil, is called before each answer, to bring up to
// date what is counted in steps.
func (m *Metrics) Handler(update func()) http.Handler {
	tell := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if update != nil {
			update()
		}
		tell.ServeHTTP(w, r)
	})
}
