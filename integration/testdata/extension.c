/*
 * Extension modules for every CPython, without its headers: all declarations here are part of the stable ABI (for 2.7, practically so).
 * NAME is the module's name. With LIBRARY it is a library that other modules need, with BROKEN its start raises an exception, with
 * NEWER it calls a function that glibc has since 2.36.
 */
#include <stddef.h>

#ifdef NEWER
extern unsigned arc4random(void);
unsigned newer(void) { return arc4random(); }
#endif

#ifdef LIBRARY
int answer(void) { return 42; }
#else

typedef struct object object;
typedef struct { const char *name; object *(*call)(object *, object *); int flags; const char *doc; } method;

extern object *PyLong_FromLong(long);
extern object *PyUnicode_FromString(const char *);
extern int PyObject_SetAttrString(object *, const char *, object *);
extern void PyErr_SetString(object *, const char *);
extern object *PyExc_ValueError;
#ifdef NEEDS
extern int answer(void);
#else
static int answer(void) { return 7; }
#endif

static object *get(object *self, object *args) { (void)self; (void)args; return PyLong_FromLong(answer()); }
static method methods[] = {{"answer", get, 4, "the answer"}, {NULL, NULL, 0, NULL}};

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static int start(object *module)
{
#ifdef BROKEN
	(void)module;
	PyErr_SetString(PyExc_ValueError, "it does not start");
	return -1;
#else
	return PyObject_SetAttrString(module, "started", PyLong_FromLong(1));
#endif
}

#ifdef PYTHON2
extern object *Py_InitModule4_64(const char *, method *, const char *, object *, int);
void JOIN(init, NAME)(void)
{
	object *module = Py_InitModule4_64(TEXT(NAME), methods, "C", NULL, 1013);
	if (module)
		start(module);
}
#else
typedef struct { int id; void *value; } slot;
typedef struct {
	struct { ptrdiff_t refs; void *type; object *(*init)(void); ptrdiff_t index; void *copy; } base;
	const char *name, *doc;
	ptrdiff_t size;
	method *methods;
	slot *slots;
	void *traverse, *clear, *free;
} definition;

#ifdef MULTIPHASE
extern object *PyModuleDef_Init(definition *);
static slot slots[] = {{2, (void *)start}, {0, NULL}};
static definition def = {{1, NULL, NULL, 0, NULL}, TEXT(NAME), "C", 0, methods, slots, NULL, NULL, NULL};
object *JOIN(PyInit_, NAME)(void) { return PyModuleDef_Init(&def); }
#else
extern object *PyModule_Create2(definition *, int);
static definition def = {{1, NULL, NULL, 0, NULL}, TEXT(NAME), "C", -1, methods, NULL, NULL, NULL, NULL};
object *JOIN(PyInit_, NAME)(void)
{
	object *module = PyModule_Create2(&def, 3);
	return module && start(module) == 0 ? module : NULL;
}
#endif
#endif
#endif
