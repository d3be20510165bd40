// Package scripts tries the shell scripts of this directory on doctored machines.
package scripts
