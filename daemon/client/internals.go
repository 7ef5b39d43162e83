// What follows is for who changes this package, and so is no part of its documentation: a blank line is between the
// two.
//
// # Goroutines
//
//	name                    started in                  ends when                                      waited for by
//	Child.giveBack          Child.Close                  the daemon has answered                        nobody: it holds nothing
//	pings                   Client.whileAnswering       what they are for is over                      nobody: it holds nothing
//	a ping                  Client.answers              it is answered, or the connection has ended    nobody: it holds nothing
//	stream.read             stream.each                 the daemon has answered                        stream.each
//	stream.feed             Child.Run, Client.runMany   standard input ends; or a read returns after   nobody: it may hang in the user's
//	                                                    the program has ended                          reader, and holds nothing else
//	stream.giveUp           Child.Run                   the program has ended, or killTime passed      nobody: it holds nothing
//	the end of the input    Client.RunMany              the user's reader ends, or fails               nobody: it may hang in that
//	manyWork.steer          manyWork.wait               the work is over                               nobody: it holds nothing
//	the items of channels   Client.OpenMany             the work is over                               ManyChannels.Wait

package client
