package transport

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
)

// AdminConfig says how an operator reaches a coordinator.
type AdminConfig struct {
	// Addr is the coordinator's host:port. Default: [DefaultAddr].
	Addr string
	// ServerName is the name that the coordinator's certificate must carry. Default:
	// [DefaultServerName].
	ServerName string
	// TLSDir is the directory with ca.pem, admin.pem and admin.key.pem. Required.
	TLSDir string
	// Logger takes what the connection has to say. Default: discarded.
	Logger *slog.Logger
}

// AdminConn is an operator's way to a coordinator, always HTTP/2 over TCP. It
// connects when first used. Safe for concurrent use.
type AdminConn struct {
	cc    *grpc.ClientConn
	admin adminv1.AdminClient
	jobs  adminv1.JobsClient
}

var _ core.Admin = (*AdminConn)(nil)

// DialAdmin returns a connection that shows the operator's identity. It does no
// network. While the files are not there it is [core.CodeNotFound] or, for ca.pem,
// [core.CodeUnavailable].
func DialAdmin(cfg AdminConfig) (*AdminConn, error) {
	const op = "dial coordinator"
	setDefault(&cfg.Addr, DefaultAddr)
	setDefault(&cfg.ServerName, DefaultServerName)
	if err := checkAddr(cfg.Addr); err != nil {
		return nil, core.Wrap(op, core.CodeConfigInvalid, err)
	}
	roots, err := loadRoots(cfg.TLSDir)
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	certPath := filepath.Join(cfg.TLSDir, FileAdmin)
	pair, err := loadPair(certPath, filepath.Join(cfg.TLSDir, FileAdminKey))
	if err != nil {
		return nil, fileError(op, err)
	}
	if err := checkLife(certPath, pair.Leaf, time.Now()); err != nil {
		return nil, core.WithOp(op, err)
	}
	show := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	cc, err := dialH2(cfg.Addr, clientTLS(roots, cfg.ServerName, "h2", show), time.Second, NewEpochGuard(0), &failureRecord{addr: cfg.Addr})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	return &AdminConn{cc: cc, admin: adminv1.NewAdminClient(cc), jobs: adminv1.NewJobsClient(cc)}, nil
}

// Close ends every call and closes the connection.
func (a *AdminConn) Close() error {
	return core.Wrap("close connection", core.CodeClosed, a.cc.Close())
}

// Status implements [core.Admin].
func (a *AdminConn) Status(ctx context.Context) (core.Status, error) {
	const op = "status"
	m, err := a.admin.GetStatus(ctx, &adminv1.GetStatusRequest{})
	if err != nil {
		return core.Status{}, core.WithOp(op, err)
	}
	st, err := statusFrom(m)
	return st, core.WithOp(op, err)
}

// Workers implements [core.Admin].
func (a *AdminConn) Workers(ctx context.Context) ([]core.WorkerRow, error) {
	const op = "list workers"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.admin.ListWorkers(ctx, &adminv1.ListWorkersRequest{})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	rows := []core.WorkerRow{}
	for {
		m, err := ss.Recv()
		if isEOF(err) {
			return rows, nil
		}
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		row, err := workerFrom(m.GetWorker())
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		rows = append(rows, row)
	}
}

// ForgetWorker implements [core.Admin].
func (a *AdminConn) ForgetWorker(ctx context.Context, id core.WorkerID) error {
	_, err := a.admin.ForgetWorker(ctx, &adminv1.ForgetWorkerRequest{WorkerId: id.String()})
	return core.WithOp("forget worker", err)
}

// SendCommand implements [core.Admin].
func (a *AdminConn) SendCommand(ctx context.Context, id core.WorkerID, cmd core.Command) (uint64, error) {
	m, err := a.admin.SendCommand(ctx, &adminv1.SendCommandRequest{WorkerId: id.String(), Command: commandTo(cmd)})
	return m.GetSeq(), core.WithOp("send command", err)
}

// AwaitCommand implements [core.Admin].
func (a *AdminConn) AwaitCommand(ctx context.Context, id core.WorkerID, seq uint64) (core.CommandResult, error) {
	m, err := a.admin.AwaitCommand(ctx, &adminv1.AwaitCommandRequest{WorkerId: id.String(), Seq: seq})
	if err != nil {
		return core.CommandResult{}, core.WithOp("await command", err)
	}
	return core.CommandResult{
		Worker: core.WorkerRef{ID: id, Epoch: m.GetEpoch()}, Seq: m.GetSeq(), Code: codeFrom(m.GetCode()), Detail: m.GetDetail(),
	}, nil
}

// Events implements [core.Admin].
func (a *AdminConn) Events(ctx context.Context, after uint64, follow bool, send func(core.StoredEvent) error) error {
	const op = "events"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.admin.StreamEvents(ctx, &adminv1.StreamEventsRequest{After: after, Follow: follow})
	if err != nil {
		return core.WithOp(op, err)
	}
	for {
		m, err := ss.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return core.WithOp(op, err)
		}
		e := core.StoredEvent{Seq: m.GetSeq()}
		if err := json.Unmarshal(m.GetEventJson(), &e.Event); err != nil {
			return core.Wrap(op, core.CodeInternal, err)
		}
		if err := send(e); err != nil {
			return err
		}
	}
}

// NewToken implements [core.Admin].
func (a *AdminConn) NewToken(ctx context.Context, spec core.TokenSpec) (core.Secret, error) {
	const op = "new token"
	if spec.Uses < 0 || spec.Uses > maxTokenUses {
		return core.Secret{}, core.Errorf(op, core.CodeInvalidArgument, "a token has 0 to %d uses", maxTokenUses)
	}
	m, err := a.admin.CreateToken(ctx, &adminv1.CreateTokenRequest{TtlNs: int64(spec.TTL), Uses: uint32(spec.Uses)})
	if err != nil {
		return core.Secret{}, core.WithOp(op, err)
	}
	return core.NewSecret([]byte(m.GetToken())), nil
}

// Backup implements [core.Admin]. What w got is a backup only when the error is nil.
func (a *AdminConn) Backup(ctx context.Context, w io.Writer) (int64, error) {
	const op = "backup"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.admin.Backup(ctx, &adminv1.BackupRequest{})
	if err != nil {
		return 0, core.WithOp(op, err)
	}
	var n, total int64 = 0, -1
	for {
		m, err := ss.Recv()
		if isEOF(err) {
			break
		}
		if err != nil {
			return n, core.WithOp(op, err)
		}
		k, err := w.Write(m.GetChunk())
		n += int64(k)
		if err != nil {
			return n, core.Wrap(op, core.CodeUnknown, err)
		}
		if len(m.GetChunk()) == 0 {
			total = m.GetTotalBytes()
		}
	}
	if n != total {
		return n, core.Errorf(op, core.CodeCorrupt, "the copy ended after %d bytes of %d", n, total)
	}
	return n, nil
}
