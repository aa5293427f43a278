/* The two walks. nn.Module keeps its entries in the dicts _parameters, _buffers and _modules of its
 * __dict__; a module on which that is not the whole truth ends the walk as unsupported. */
#include "python/module_walk.h"

#include <stdio.h>
#include <string.h>

/* Types already found to use nn.Module's own methods, by address: a model has a dozen of them. */
#define KNOWN_TYPES 64

typedef struct {
    const y5_state *state;
    y5_visit visit;
    void *context;
    y5_error *error;
    int32_t first_method; /* methods first ... last - 1 must not be overridden by a type, */
    int32_t last_method;  /* nor first ... last_inner - 1 by an instance, */
    int32_t last_inner;   /* nor first ... last_outer - 1 by the root */
    int32_t last_outer;
    const PyTypeObject *known_types[KNOWN_TYPES];
} walk;

/* One module of a tree, its dicts borrowed from `members`, which is owned. */
typedef struct {
    PyObject *members;
    PyObject *parameters;
    PyObject *buffers;
    PyObject *modules;
    PyObject *non_persistent; /* NULL where empty */
} node;

void
y5_path_text(const y5_path *path, char *text, size_t size)
{
    if (path == NULL) {
        snprintf(text, size, "model");
        return;
    }
    text[0] = '\0';
    if (path->parent != NULL) {
        y5_path_text(path->parent, text, size);
    }
    size_t used = strlen(text);
    PyObject *utf8 = PyUnicode_AsUTF8String(path->name);
    if (utf8 != NULL) {
        snprintf(text + used, size - used, "%s%s", used > 0 ? "." : "", PyBytes_AsString(utf8));
        Py_DECREF(utf8);
    } else {
        PyErr_Clear();
    }
}

static y5_status
unsupported_module(const walk *self, const y5_path *path, const PyObject *module, const char *why)
{
    char key[128];
    y5_path_text(path, key, sizeof(key));
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(module), "__name__");
    PyObject *utf8 = name != NULL ? PyUnicode_AsUTF8String(name) : NULL;
    const char *type = utf8 != NULL ? PyBytes_AsString(utf8) : "module";
    y5_status status = y5_fail(self->error, Y5_UNSUPPORTED, key, "%s %s", type, why);
    Py_XDECREF(utf8);
    Py_XDECREF(name);
    PyErr_Clear();
    return status;
}

static bool
type_is_plain(walk *self, PyTypeObject *type)
{
    size_t slot = ((uintptr_t)type >> 5) % KNOWN_TYPES;
    if (self->known_types[slot] == type) {
        return true;
    }
    for (int32_t i = self->first_method; i < self->last_method; i++) {
        PyObject *own = self->state->torch.methods[i];
        if (own == NULL) {
            continue;
        }
        PyObject *found = PyObject_GetAttr((PyObject *)type, self->state->names[i]);
        Py_XDECREF(found); /* the type keeps it alive; only its identity matters */
        if (found != own) {
            PyErr_Clear();
            return false;
        }
    }
    self->known_types[slot] = type;
    return true;
}

/* True where members[name] is there and is not an empty dict. */
static bool
is_non_empty(PyObject *members, PyObject *name)
{
    PyObject *hooks = PyDict_GetItemWithError(members, name);
    return hooks != NULL && (!PyDict_Check(hooks) || PyDict_Size(hooks) != 0);
}

/* The dict of that name; NULL where there is none or where it is not a plain one. */
static PyObject *
member_dict(PyObject *members, PyObject *name)
{
    PyObject *dict = PyDict_GetItemWithError(members, name);
    return dict != NULL && PyDict_Check(dict) ? dict : NULL;
}

/* Opens a module: its dicts, once its type and its instance were found plain. */
static y5_status
open_module(walk *self, PyObject *module, const y5_path *path, node *out)
{
    PyObject *const *names = self->state->names;
    if (!PyObject_TypeCheck(module, self->state->torch.module_type)) {
        return unsupported_module(self, path, module, "is not an nn.Module");
    }
    if (!type_is_plain(self, Py_TYPE(module))) {
        return unsupported_module(self, path, module, "overrides a method this walk replaces");
    }
    out->members = PyObject_GenericGetDict(module, NULL);
    if (out->members == NULL) {
        return Y5_PYTHON_RAISED;
    }
    out->parameters = member_dict(out->members, names[Y5_NAME_PARAMETERS]);
    out->buffers = member_dict(out->members, names[Y5_NAME_BUFFERS]);
    out->modules = member_dict(out->members, names[Y5_NAME_MODULES]);
    if (out->parameters == NULL || out->buffers == NULL || out->modules == NULL) {
        return unsupported_module(self, path, module, "keeps its entries elsewhere");
    }
    int32_t last = path == NULL ? self->last_outer : self->last_inner;
    for (int32_t i = self->first_method; i < last; i++) {
        if (PyDict_GetItemWithError(out->members, names[i]) != NULL) {
            return unsupported_module(self, path, module,
                                      "has a method of its own on the instance");
        }
    }
    return Y5_OK;
}

static void
close_module(node *opened)
{
    Py_CLEAR(opened->members);
}

/* Opens a module of which state_dict() is wanted. */
static y5_status
open_state(walk *self, PyObject *module, const y5_path *path, node *out)
{
    y5_status status = open_module(self, module, path, out);
    if (status != Y5_OK) {
        return status;
    }
    PyObject *const *names = self->state->names;
    if (is_non_empty(out->members, names[Y5_NAME_HOOKS]) ||
        is_non_empty(out->members, names[Y5_NAME_PRE_HOOKS])) {
        return unsupported_module(self, path, module, "has state_dict hooks");
    }
    if (PyDict_Size(out->buffers) > 0) {
        PyObject *hidden = PyDict_GetItemWithError(out->members, names[Y5_NAME_NON_PERSISTENT]);
        out->non_persistent = hidden != NULL && PySet_Size(hidden) > 0 ? hidden : NULL;
    }
    return PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_OK;
}

static bool
is_hidden(const node *module, PyObject *name)
{
    return module->non_persistent != NULL && PySet_Contains(module->non_persistent, name) == 1;
}

/* The entry `name` of an opened module's own state, or NULL. */
static PyObject *
find_entry(const node *module, PyObject *name)
{
    PyObject *entry = PyDict_GetItemWithError(module->parameters, name);
    if (entry != NULL && entry != Py_None) {
        return entry;
    }
    entry = PyDict_GetItemWithError(module->buffers, name);
    return entry == NULL || entry == Py_None || is_hidden(module, name) ? NULL : entry;
}

static y5_status
visit_entries(walk *self, const node *average, const node *source, bool buffers,
              const y5_path *parent)
{
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *entry = NULL;
    y5_status status = Y5_OK;
    PyObject *entries = buffers ? average->buffers : average->parameters;
    while (status == Y5_OK && PyDict_Next(entries, &position, &name, &entry)) {
        if (entry == Py_None || (buffers && is_hidden(average, name))) {
            continue;
        }
        PyObject *counterpart = source->members != NULL ? find_entry(source, name) : NULL;
        y5_path path = {parent, name};
        Py_INCREF(entry);
        Py_XINCREF(counterpart);
        status = self->visit(self->context, entry, counterpart, &path, self->error);
        Py_XDECREF(counterpart);
        Py_DECREF(entry);
    }
    return status == Y5_OK && PyErr_Occurred() ? Y5_PYTHON_RAISED : status;
}

/* `source` is NULL below a module that the other tree lacks: every entry then has no counterpart.
 */
static y5_status
walk_state(walk *self, PyObject *average, PyObject *source, const y5_path *parent)
{
    if (Py_EnterRecursiveCall(" while walking a module tree")) {
        return Y5_PYTHON_RAISED;
    }
    node mine = {0};
    node theirs = {0};
    y5_status status = open_state(self, average, parent, &mine);
    if (status == Y5_OK && source != NULL) {
        status = open_state(self, source, parent, &theirs);
    }
    if (status == Y5_OK) {
        status = visit_entries(self, &mine, &theirs, false, parent);
    }
    if (status == Y5_OK) {
        status = visit_entries(self, &mine, &theirs, true, parent);
    }
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *child = NULL;
    while (status == Y5_OK && PyDict_Next(mine.modules, &position, &name, &child)) {
        if (child == Py_None) {
            continue;
        }
        PyObject *other =
            theirs.members != NULL ? PyDict_GetItemWithError(theirs.modules, name) : NULL;
        other = other == Py_None ? NULL : other;
        y5_path path = {parent, name};
        Py_INCREF(child);
        Py_XINCREF(other);
        status = walk_state(self, child, other, &path);
        Py_XDECREF(other);
        Py_DECREF(child);
    }
    close_module(&theirs);
    close_module(&mine);
    Py_LeaveRecursiveCall();
    return status;
}

y5_status
y5_walk_states(const y5_state *state, PyObject *average, PyObject *source, y5_visit visit,
               void *context, y5_error *error)
{
    walk self = {
        .state = state,
        .visit = visit,
        .context = context,
        .error = error,
        .first_method = Y5_METHOD_STATE_DICT,
        .last_method = Y5_METHOD_GET_EXTRA_STATE + 1,
        .last_inner = Y5_METHOD_GET_EXTRA_STATE, /* torch looks that one up on the type */
        .last_outer = Y5_METHOD_GET_EXTRA_STATE,
    };
    return walk_state(&self, average, source, NULL);
}

/* A set of addresses: open addressing, a power of two of slots, at most half of them full. */
typedef struct {
    const void **slots;
    size_t capacity;
    size_t count;
} address_set;

static void
put_address(address_set *set, const void *address)
{
    size_t slot = ((uintptr_t)address >> 4) * 0x9e3779b97f4a7c15U & (set->capacity - 1);
    while (set->slots[slot] != NULL && set->slots[slot] != address) {
        slot = (slot + 1) & (set->capacity - 1);
    }
    set->count += set->slots[slot] == NULL;
    set->slots[slot] = address;
}

/* 1 where the address is new, 0 where it was there, -1 without memory. */
static int
add_address(address_set *set, const void *address)
{
    if (set->count * 2 >= set->capacity) {
        address_set larger = {NULL, set->capacity > 0 ? set->capacity * 2 : 1024, 0};
        larger.slots = PyMem_Calloc(larger.capacity, sizeof(*larger.slots));
        if (larger.slots == NULL) {
            return -1;
        }
        for (size_t i = 0; i < set->capacity; i++) {
            if (set->slots[i] != NULL) {
                put_address(&larger, set->slots[i]);
            }
        }
        PyMem_Free(set->slots);
        *set = larger;
    }
    size_t before = set->count;
    put_address(set, address);
    return set->count > before;
}

static y5_status
walk_parameters(walk *self, address_set *seen, PyObject *module, const y5_path *parent)
{
    int is_new = add_address(seen, module);
    if (is_new <= 0) {
        return is_new == 0 ? Y5_OK : Y5_NO_MEMORY;
    }
    if (Py_EnterRecursiveCall(" while walking a module tree")) {
        return Y5_PYTHON_RAISED;
    }
    node opened = {0};
    y5_status status = open_module(self, module, parent, &opened);
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *value = NULL;
    while (status == Y5_OK && PyDict_Next(opened.parameters, &position, &name, &value)) {
        is_new = value == Py_None ? 0 : add_address(seen, value);
        y5_path path = {parent, name};
        if (is_new > 0) {
            status = self->visit(self->context, value, NULL, &path, self->error);
        } else if (is_new < 0) {
            status = Y5_NO_MEMORY;
        }
    }
    position = 0;
    while (status == Y5_OK && PyDict_Next(opened.modules, &position, &name, &value)) {
        y5_path path = {parent, name};
        if (value != Py_None) {
            Py_INCREF(value);
            status = walk_parameters(self, seen, value, &path);
            Py_DECREF(value);
        }
    }
    close_module(&opened);
    Py_LeaveRecursiveCall();
    return status;
}

y5_status
y5_walk_parameters(const y5_state *state, PyObject *module, y5_visit visit, void *context,
                   y5_error *error)
{
    walk self = {
        .state = state,
        .visit = visit,
        .context = context,
        .error = error,
        .first_method = Y5_METHOD_NAMED_MODULES,
        .last_method = Y5_METHOD_EQUAL + 1,
        .last_inner = Y5_METHOD_NAMED_MODULES + 1,
        .last_outer = Y5_METHOD_NAMED_MEMBERS + 1,
    };
    address_set seen = {0};
    y5_status status = walk_parameters(&self, &seen, module, NULL);
    PyMem_Free(seen.slots);
    return status;
}
