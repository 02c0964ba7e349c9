package tlsfront

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// certmagic logs through zap, some twenty lines for each certificate. Here its lines become slog's, all of them for
// debugging: what an operator is to read, ACME says in its own words, by certmagic's events and errors. One thing reaches
// nobody otherwise: the failure of a renewal in the background.

// jobFailed is certmagic's message for that.
const jobFailed = "job failed"

// newACMELogger returns a zap.Logger that writes to handler. failed gets the error of each failed job; its line is not
// written.
func newACMELogger(handler slog.Handler, failed func(error)) *zap.Logger {
	return zap.New(&acmeLog{handler, failed})
}

// acmeLog is a zapcore.Core over a slog.Handler.
type acmeLog struct {
	handler slog.Handler
	failed  func(error)
}

func (l *acmeLog) Enabled(level zapcore.Level) bool {
	return level >= zapcore.ErrorLevel || l.handler.Enabled(context.Background(), slog.LevelDebug)
}

func (l *acmeLog) With(fields []zapcore.Field) zapcore.Core {
	return &acmeLog{l.handler.WithAttrs(attrs(fields)), l.failed}
}

func (l *acmeLog) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(entry.Level) {
		return checked.AddCore(entry, l)
	}
	return checked
}

func (l *acmeLog) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if entry.Message == jobFailed {
		l.failed(errorOf(fields))
		return nil
	}
	if !l.handler.Enabled(context.Background(), slog.LevelDebug) {
		return nil
	}
	record := slog.NewRecord(entry.Time, slog.LevelDebug, "acme", 0)
	record.AddAttrs(slog.String("step", entry.Message))
	if entry.LoggerName != "" {
		record.AddAttrs(slog.String("part", entry.LoggerName))
	}
	record.AddAttrs(attrs(fields)...)
	return l.handler.Handle(context.Background(), record)
}

func (l *acmeLog) Sync() error { return nil }

// attrs are zap's fields in slog's form, ordered by name. An error is "err", as in all of this program.
func attrs(fields []zapcore.Field) []slog.Attr {
	encoder := zapcore.NewMapObjectEncoder()
	var list []slog.Attr
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			list = append(list, slog.Any("err", err))
			continue
		}
		f.AddTo(encoder)
	}
	for name, value := range encoder.Fields {
		list = append(list, slog.Any(name, value))
	}
	slices.SortFunc(list, func(a, b slog.Attr) int { return cmp.Compare(a.Key, b.Key) })
	return list
}

// errorOf is the first error among the fields.
func errorOf(fields []zapcore.Field) error {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok {
			return err
		}
	}
	return errors.New("unknown error")
}
