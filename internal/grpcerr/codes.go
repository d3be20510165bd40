package grpcerr

import (
	"google.golang.org/grpc/codes"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// grpcCodes is what a foreign client sees of each code. Indexed by core.Code and
// read only; a test pins it and fails when core grows a code without a row here.
var grpcCodes = [...]codes.Code{
	core.CodeUnknown:            codes.Unknown,
	core.CodeThrottled:          codes.ResourceExhausted,
	core.CodeTransient:          codes.Unavailable,
	core.CodePreempted:          codes.Aborted,
	core.CodeConfigInvalid:      codes.InvalidArgument,
	core.CodeSchemaViolation:    codes.InvalidArgument,
	core.CodePluginContract:     codes.FailedPrecondition,
	core.CodeInternal:           codes.Internal,
	core.CodeInvalidArgument:    codes.InvalidArgument,
	core.CodeNotFound:           codes.NotFound,
	core.CodeAlreadyExists:      codes.AlreadyExists,
	core.CodeConflict:           codes.Aborted,
	core.CodeCorrupt:            codes.DataLoss,
	core.CodeFenced:             codes.Aborted,
	core.CodeLeaseLost:          codes.Aborted,
	core.CodeExhausted:          codes.ResourceExhausted,
	core.CodeTooLarge:           codes.ResourceExhausted,
	core.CodeUnsupported:        codes.Unimplemented,
	core.CodeUnavailable:        codes.Unavailable,
	core.CodeBroken:             codes.Internal,
	core.CodeClosed:             codes.FailedPrecondition,
	core.CodeCanceled:           codes.Canceled,
	core.CodeDeadlineExceeded:   codes.DeadlineExceeded,
	core.CodeCompacted:          codes.OutOfRange,
	core.CodeUnauthenticated:    codes.Unauthenticated,
	core.CodePermissionDenied:   codes.PermissionDenied,
	core.CodeFailedPrecondition: codes.FailedPrecondition,
	core.CodeVersionMismatch:    codes.FailedPrecondition,
	core.CodePluginError:        codes.Unknown,
	core.CodePluginCrashed:      codes.Unavailable,
	core.CodePluginPoisoned:     codes.FailedPrecondition,
	core.CodeBusy:               codes.Unavailable,
}

// GRPCCode returns the gRPC code that c travels under.
func GRPCCode(c core.Code) codes.Code {
	if int(c) >= len(grpcCodes) {
		return codes.Unknown
	}
	return grpcCodes[c]
}

// CodeOfGRPC returns the code that a status without a detail stands for.
func CodeOfGRPC(c codes.Code) core.Code {
	switch c {
	case codes.Canceled:
		return core.CodeCanceled
	case codes.InvalidArgument, codes.OutOfRange:
		return core.CodeInvalidArgument
	case codes.DeadlineExceeded:
		return core.CodeDeadlineExceeded
	case codes.NotFound:
		return core.CodeNotFound
	case codes.AlreadyExists:
		return core.CodeAlreadyExists
	case codes.PermissionDenied:
		return core.CodePermissionDenied
	case codes.ResourceExhausted:
		return core.CodeThrottled
	case codes.FailedPrecondition:
		return core.CodeFailedPrecondition
	case codes.Aborted:
		return core.CodeConflict
	case codes.Unimplemented:
		return core.CodeUnsupported
	case codes.Internal:
		return core.CodeInternal
	case codes.Unavailable:
		return core.CodeUnavailable
	case codes.DataLoss:
		return core.CodeCorrupt
	case codes.Unauthenticated:
		return core.CodeUnauthenticated
	}
	return core.CodeUnknown
}
