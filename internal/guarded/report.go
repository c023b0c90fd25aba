package guarded

import (
	"context"
	"log/slog"
	"time"
)

// Report tells OnError and the Logger of an error that no handshake may see.
func (s *Store) Report(level slog.Level, msg string, err error, attrs ...slog.Attr) {
	s.log(level, msg, append(attrs, slog.Any("error", err))...)
	if f := s.opt.OnError; f != nil {
		defer func() { _ = recover() }()
		f(err)
	}
}

func (s *Store) log(level slog.Level, msg string, attrs ...slog.Attr) {
	if l := s.opt.Logger; l != nil {
		defer func() { _ = recover() }()
		l.LogAttrs(context.Background(), level, msg, attrs...)
	}
}

// failed reports an operation's failure and the breaker's change.
func (s *Store) failed(op operation, err error, change breakerChange) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("operation", op.String())}
	p, panicked := err.(*storePanic)
	if panicked {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	switch {
	case change != breakerFailing: // reported already
	case panicked:
		level = slog.LevelError
	default:
		level = slog.LevelWarn
	}
	s.Report(level, "store failed", err, attrs...)
	if change == breakerOpened {
		side := s.sideOf(op)
		side.outage.Store(&outage{time.Now(), side.skipped.Load(), s.Stats.Lost.Load()})
		s.log(slog.LevelError, "store left alone", slog.String("operations", side.name), slog.Any("error", err))
	}
}

// outage holds the counters at the moment when a breaker opened.
type outage struct {
	begin         time.Time
	skipped, lost uint64
}

// answersAgain reports the cost of the outage that is over.
func (s *Store) answersAgain(of *side) {
	if o := of.outage.Swap(nil); o != nil {
		s.log(slog.LevelInfo, "store answers again", slog.String("operations", of.name), slog.Duration("after", time.Since(o.begin)),
			slog.Uint64("skipped", of.skipped.Load()-o.skipped), slog.Uint64("lost", s.Stats.Lost.Load()-o.lost))
	}
}
