package pyproto

// Pickle opcodes, by the names of Python's pickletools.
const (
	opMark           = '('
	opStop           = '.'
	opPop            = '0'
	opPopMark        = '1'
	opDup            = '2'
	opFloat          = 'F'
	opInt            = 'I'
	opBinInt         = 'J'
	opBinInt1        = 'K'
	opLong           = 'L'
	opBinInt2        = 'M'
	opNone           = 'N'
	opPersID         = 'P'
	opBinPersID      = 'Q'
	opReduce         = 'R'
	opString         = 'S'
	opBinString      = 'T'
	opShortBinString = 'U'
	opUnicode        = 'V'
	opBinUnicode     = 'X'
	opAppend         = 'a'
	opBuild          = 'b'
	opGlobal         = 'c'
	opDict           = 'd'
	opEmptyDict      = '}'
	opAppends        = 'e'
	opGet            = 'g'
	opBinGet         = 'h'
	opInst           = 'i'
	opLongBinGet     = 'j'
	opList           = 'l'
	opEmptyList      = ']'
	opObj            = 'o'
	opPut            = 'p'
	opBinPut         = 'q'
	opLongBinPut     = 'r'
	opSetItem        = 's'
	opTuple          = 't'
	opEmptyTuple     = ')'
	opSetItems       = 'u'
	opBinFloat       = 'G'

	opProto    = 0x80
	opNewObj   = 0x81
	opExt1     = 0x82
	opExt2     = 0x83
	opExt4     = 0x84
	opTuple1   = 0x85
	opTuple2   = 0x86
	opTuple3   = 0x87
	opNewTrue  = 0x88
	opNewFalse = 0x89
	opLong1    = 0x8a
	opLong4    = 0x8b

	opBinBytes      = 'B'
	opShortBinBytes = 'C'

	opShortBinUnicode = 0x8c
	opBinUnicode8     = 0x8d
	opBinBytes8       = 0x8e
	opEmptySet        = 0x8f
	opAddItems        = 0x90
	opFrozenSet       = 0x91
	opNewObjEx        = 0x92
	opStackGlobal     = 0x93
	opMemoize         = 0x94
	opFrame           = 0x95
	opByteArray8      = 0x96
	opNextBuffer      = 0x97
	opReadOnlyBuffer  = 0x98
)

// argKind says what follows an opcode.
type argKind uint8

const (
	argNone    argKind = iota
	argU8              // one byte
	argU16             // two bytes, little-endian like all below
	argI32             // four bytes, signed
	argU32             // four bytes
	argU64             // eight bytes
	argF64             // eight bytes, big-endian
	argLine            // text up to a newline
	argTwoLine         // two such lines
	argData8           // one byte of length, then that many bytes
	argData32          // four bytes of length, then the bytes
	argData64          // eight bytes of length, then the bytes
)

type opInfo struct {
	name string
	arg  argKind
}

// opTable names every opcode of protocols 0 to 5; the zero opInfo marks a byte that is no opcode.
var opTable = [256]opInfo{
	opMark: {"MARK", argNone}, opStop: {"STOP", argNone}, opPop: {"POP", argNone}, opPopMark: {"POP_MARK", argNone},
	opDup: {"DUP", argNone}, opFloat: {"FLOAT", argLine}, opInt: {"INT", argLine}, opBinInt: {"BININT", argI32},
	opBinInt1: {"BININT1", argU8}, opLong: {"LONG", argLine}, opBinInt2: {"BININT2", argU16}, opNone: {"NONE", argNone},
	opPersID: {"PERSID", argLine}, opBinPersID: {"BINPERSID", argNone}, opReduce: {"REDUCE", argNone},
	opString: {"STRING", argLine}, opBinString: {"BINSTRING", argData32},
	opShortBinString: {"SHORT_BINSTRING", argData8},
	opUnicode:        {"UNICODE", argLine}, opBinUnicode: {"BINUNICODE", argData32}, opAppend: {"APPEND", argNone},
	opBuild: {"BUILD", argNone}, opGlobal: {"GLOBAL", argTwoLine}, opDict: {"DICT", argNone},
	opEmptyDict: {"EMPTY_DICT", argNone}, opAppends: {"APPENDS", argNone}, opGet: {"GET", argLine},
	opBinGet: {"BINGET", argU8}, opInst: {"INST", argTwoLine}, opLongBinGet: {"LONG_BINGET", argU32},
	opList: {"LIST", argNone}, opEmptyList: {"EMPTY_LIST", argNone}, opObj: {"OBJ", argNone}, opPut: {"PUT", argLine},
	opBinPut: {"BINPUT", argU8}, opLongBinPut: {"LONG_BINPUT", argU32}, opSetItem: {"SETITEM", argNone},
	opTuple: {"TUPLE", argNone}, opEmptyTuple: {"EMPTY_TUPLE", argNone}, opSetItems: {"SETITEMS", argNone},
	opBinFloat: {"BINFLOAT", argF64},

	opProto: {"PROTO", argU8}, opNewObj: {"NEWOBJ", argNone}, opExt1: {"EXT1", argU8}, opExt2: {"EXT2", argU16},
	opExt4: {"EXT4", argI32}, opTuple1: {"TUPLE1", argNone}, opTuple2: {"TUPLE2", argNone},
	opTuple3:  {"TUPLE3", argNone},
	opNewTrue: {"NEWTRUE", argNone}, opNewFalse: {"NEWFALSE", argNone}, opLong1: {"LONG1", argData8},
	opLong4: {"LONG4", argData32},

	opBinBytes: {"BINBYTES", argData32}, opShortBinBytes: {"SHORT_BINBYTES", argData8},

	opShortBinUnicode: {"SHORT_BINUNICODE", argData8}, opBinUnicode8: {"BINUNICODE8", argData64},
	opBinBytes8: {"BINBYTES8", argData64}, opEmptySet: {"EMPTY_SET", argNone}, opAddItems: {"ADDITEMS", argNone},
	opFrozenSet: {"FROZENSET", argNone}, opNewObjEx: {"NEWOBJ_EX", argNone}, opStackGlobal: {"STACK_GLOBAL", argNone},
	opMemoize: {"MEMOIZE", argNone}, opFrame: {"FRAME", argU64}, opByteArray8: {"BYTEARRAY8", argData64},
	opNextBuffer: {"NEXT_BUFFER", argNone}, opReadOnlyBuffer: {"READONLY_BUFFER", argNone},
}
