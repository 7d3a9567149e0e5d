// The official OpenTelemetry collector with what the benchmark needs of it: the receiver of OTLP, and the exporter to a
// file. The exporter never syncs, so another one is here that syncs the same file after it.
package main

import (
	"context"
	"log"
	"os"
	"sync"
	"syscall"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otel-collector", Version: version},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
				DefaultScheme:     "file",
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}

const version = "0.165.1"

func factories() (otelcol.Factories, error) {
	file := fileexporter.NewFactory()
	synced := exporter.NewFactory(
		component.MustNewType("synced_file"),
		file.CreateDefaultConfig,
		exporter.WithLogs(newSynced, component.StabilityLevelDevelopment),
	)
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](file, synced)
	return otelcol.Factories{
		Receivers: receivers,
		Exporters: exporters,
		Telemetry: otelconftelemetry.NewFactory(),
	}, err
}

// synced is the exporter to a file, with one fdatasync for all that wait for one.
type synced struct {
	exporter.Logs
	path string
	file *os.File
	turn sync.Mutex // held while a sync runs
	lock sync.Mutex // of the numbers
	// Writes that have ended, and those of them that a sync has covered.
	written, durable uint64
}

func newSynced(ctx context.Context, set exporter.Settings, config component.Config) (exporter.Logs, error) {
	factory := fileexporter.NewFactory()
	set.ID = component.NewIDWithName(factory.Type(), set.ID.Name())
	logs, err := factory.CreateLogs(ctx, set, config)
	return &synced{Logs: logs, path: config.(*fileexporter.Config).Path}, err
}

func (s *synced) ConsumeLogs(ctx context.Context, logs plog.Logs) error {
	if err := s.Logs.ConsumeLogs(ctx, logs); err != nil {
		return err
	}
	s.lock.Lock()
	s.written++
	own := s.written
	s.lock.Unlock()
	return s.sync(own)
}

func (s *synced) sync(own uint64) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.lock.Lock()
	done, until := s.durable >= own, s.written
	s.lock.Unlock()
	if done {
		return nil
	}
	if s.file == nil {
		file, err := os.Open(s.path)
		if err != nil {
			return err
		}
		s.file = file
	}
	if err := syscall.Fdatasync(int(s.file.Fd())); err != nil {
		return err
	}
	s.lock.Lock()
	s.durable = until
	s.lock.Unlock()
	return nil
}
