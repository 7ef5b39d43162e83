// Package wire is the form of what goes over control.sock: msgpack-RPC messages, read with bounds, and Python values
// inside them. The server (package control) and the Go client (package client) share it; docs/control.md describes it
// for clients in other languages.
//
// A message is one msgpack array, as https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md says:
//
//	[0, msgid, method, params]    request
//	[1, msgid, error, result]     response
//	[2, method, params]           notification
//
// Params is an array with at most one element, a map of the method's named parameters.
package wire
