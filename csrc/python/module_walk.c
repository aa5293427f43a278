/* The two walks. nn.Module keeps its entries in the dicts _parameters, _buffers and _modules of its
 * __dict__; a module on which that is not the whole truth ends the walk as unsupported. */
#include "python/module_walk.h"

#include "core/address_set.h"

#include <stdio.h>
#include <string.h>

/* Types already found to use nn.Module's own methods, by address: a model has a dozen of them. */
#define KNOWN_TYPES 64

/* Names already found to be plain words: "weight" and its like come hundreds of times. */
#define KNOWN_NAMES 64

/* Modules inside modules. Far above what anybody builds, far below what the C stack holds. */
#define MAX_DEPTH 200

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
    PyObject *known_names[KNOWN_NAMES]; /* owned */
} walk;

/* One module of a tree. All references are owned: Python code may run during the walk. */
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

PyObject *
y5_path_key(const y5_path *path)
{
    if (path->parent == NULL) {
        Py_INCREF(path->name);
        return path->name;
    }
    PyObject *front = y5_path_key(path->parent);
    PyObject *key = front != NULL ? PyUnicode_FromFormat("%U.%U", front, path->name) : NULL;
    Py_XDECREF(front);
    return key;
}

static y5_status
unsupported_module(const walk *self, const y5_path *path, const char *why)
{
    char key[sizeof(self->error->argument)];
    y5_path_text(path, key, sizeof(key));
    return y5_fail(self->error, Y5_UNSUPPORTED, key, "%s", why);
}

/* Y5_OK where type.name is `own`; an attribute that is missing is as good as another one. */
static y5_status
check_attribute(const walk *self, PyTypeObject *type, PyObject *name, PyObject *own,
                const y5_path *path)
{
    PyObject *found = PyObject_GetAttr((PyObject *)type, name);
    if (found == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return Y5_PYTHON_RAISED;
    }
    PyErr_Clear();
    Py_XDECREF(found); /* the type keeps it alive; only its identity matters */
    return found == own ? Y5_OK
                        : unsupported_module(self, path, "overrides a method this walk replaces");
}

/* Y5_OK where the type uses nn.Module's own methods and keeps its entries in its __dict__. */
static y5_status
check_type(walk *self, PyObject *module, const node *opened, const y5_path *path)
{
    PyTypeObject *type = Py_TYPE(module);
    size_t slot = ((uintptr_t)type >> 5) % KNOWN_TYPES;
    if (self->known_types[slot] == type) {
        return Y5_OK;
    }
    const y5_torch *torch = &self->state->torch;
    PyObject *const *names = self->state->names;
    y5_status status =
        check_attribute(self, type, names[Y5_NAME_GETATTRIBUTE], torch->getattribute, path);
    for (int32_t i = self->first_method; i < self->last_method && status == Y5_OK; i++) {
        if (torch->methods[i] != NULL) {
            status = check_attribute(self, type, names[i], torch->methods[i], path);
        }
    }
    PyObject *const dicts[] = {opened->parameters, opened->buffers, opened->modules};
    for (int32_t i = 0; i < 3 && status == Y5_OK; i++) {
        PyObject *seen = PyObject_GetAttr(module, names[Y5_NAME_PARAMETERS + i]);
        Py_XDECREF(seen);
        if (seen == NULL) {
            return Y5_PYTHON_RAISED;
        }
        if (seen != dicts[i]) {
            status = unsupported_module(self, path, "keeps its entries elsewhere");
        }
    }
    if (status == Y5_OK) {
        self->known_types[slot] = type; /* alive as long as the module, which the walk holds */
    }
    return status;
}

/* A new reference to the plain dict of that name; NULL where there is none. */
static PyObject *
member_dict(const walk *self, PyObject *members, PyObject *name)
{
    PyObject *dict = PyDict_GetItemWithError(members, name);
    /* OrderedDict, of torch before 2.4, is walked in its order unless entries were moved in it. */
    bool plain = dict != NULL && PyDict_Check(dict) &&
                 (PyDict_CheckExact(dict) || Py_TYPE(dict) == self->state->torch.ordered_dict_type);
    Py_XINCREF(plain ? dict : NULL);
    return plain ? dict : NULL;
}

static void
close_module(node *opened)
{
    Py_CLEAR(opened->non_persistent);
    Py_CLEAR(opened->modules);
    Py_CLEAR(opened->buffers);
    Py_CLEAR(opened->parameters);
    Py_CLEAR(opened->members);
}

/* Opens a module: its dicts, once its type and its instance were found plain. The caller closes
 * `out` in any case. */
static y5_status
open_module(walk *self, PyObject *module, const y5_path *path, node *out)
{
    PyObject *const *names = self->state->names;
    if (!PyObject_TypeCheck(module, self->state->torch.module_type)) {
        return unsupported_module(self, path, "not an nn.Module");
    }
    out->members = PyObject_GenericGetDict(module, NULL);
    if (out->members == NULL) {
        return Y5_PYTHON_RAISED;
    }
    out->parameters = member_dict(self, out->members, names[Y5_NAME_PARAMETERS]);
    out->buffers = member_dict(self, out->members, names[Y5_NAME_BUFFERS]);
    out->modules = member_dict(self, out->members, names[Y5_NAME_MODULES]);
    if (out->parameters == NULL || out->buffers == NULL || out->modules == NULL) {
        return unsupported_module(self, path, "keeps its entries elsewhere");
    }
    int32_t last = path == NULL ? self->last_outer : self->last_inner;
    for (int32_t i = self->first_method; i < last; i++) {
        if (PyDict_GetItemWithError(out->members, names[i]) != NULL) {
            return unsupported_module(self, path, "has a method of its own on the instance");
        }
    }
    return check_type(self, module, out, path);
}

/* True where members[name] is there and is not an empty dict. */
static bool
is_non_empty(PyObject *members, PyObject *name)
{
    PyObject *hooks = PyDict_GetItemWithError(members, name);
    return hooks != NULL && (!PyDict_Check(hooks) || PyDict_Size(hooks) != 0);
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
        return unsupported_module(self, path, "has state_dict hooks");
    }
    if (PyDict_Size(out->buffers) > 0) {
        PyObject *hidden = PyDict_GetItemWithError(out->members, names[Y5_NAME_NON_PERSISTENT]);
        if (hidden != NULL && !PyAnySet_Check(hidden)) {
            return unsupported_module(self, path, "names hidden buffers otherwise than in a set");
        }
        out->non_persistent = hidden != NULL && PySet_Size(hidden) > 0 ? hidden : NULL;
        Py_XINCREF(out->non_persistent);
    }
    return PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_OK;
}

/* Y5_OK for a name that cannot make two entries share a key: a str without a dot. */
static y5_status
check_name(walk *self, PyObject *name, const y5_path *parent)
{
    size_t slot = ((uintptr_t)name >> 4) % KNOWN_NAMES;
    if (self->known_names[slot] == name) {
        return Y5_OK;
    }
    if (!PyUnicode_Check(name) ||
        PyUnicode_FindChar(name, '.', 0, PyUnicode_GetLength(name), 1) != -1) {
        return unsupported_module(self, parent, "has an entry whose name is no plain word");
    }
    Py_INCREF(name); /* else another object could come to the same address */
    Py_XDECREF(self->known_names[slot]);
    self->known_names[slot] = name;
    return Y5_OK;
}

static bool
is_hidden(const node *module, PyObject *name)
{
    return module->non_persistent != NULL && PySet_Contains(module->non_persistent, name) == 1;
}

/* The entry `name` of an opened module's own state, borrowed, or NULL. In a state dict, a buffer
 * takes the place of a parameter of its name. */
static PyObject *
find_entry(const node *module, PyObject *name)
{
    if (PyDict_Size(module->buffers) > 0) {
        PyObject *buffer = PyDict_GetItemWithError(module->buffers, name);
        if (buffer != NULL && buffer != Py_None && !is_hidden(module, name)) {
            return buffer;
        }
    }
    PyObject *parameter = PyDict_GetItemWithError(module->parameters, name);
    return parameter == Py_None ? NULL : parameter;
}

static y5_status
visit_entry(walk *self, PyObject *entry, PyObject *name, const node *source, const y5_path *parent)
{
    y5_status status = check_name(self, name, parent);
    if (status != Y5_OK) {
        return status;
    }
    PyObject *counterpart = source->members != NULL ? find_entry(source, name) : NULL;
    if (counterpart == NULL && PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    y5_path path = {parent, name};
    Py_XINCREF(counterpart);
    status = self->visit(self->context, entry, counterpart, &path, self->error);
    Py_XDECREF(counterpart);
    return status;
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
        if (buffers && PyDict_GetItemWithError(average->parameters, name) != NULL) {
            return unsupported_module(self, parent, "has a parameter and a buffer of one name");
        }
        Py_INCREF(name);
        Py_INCREF(entry);
        status = visit_entry(self, entry, name, source, parent);
        Py_DECREF(entry);
        Py_DECREF(name);
    }
    return status == Y5_OK && PyErr_Occurred() ? Y5_PYTHON_RAISED : status;
}

static y5_status walk_state(walk *self, PyObject *average, PyObject *source, const y5_path *parent,
                            int32_t depth);

static y5_status
walk_children(walk *self, const node *mine, const node *theirs, const y5_path *parent,
              int32_t depth)
{
    if (theirs->members != NULL && PyDict_Size(mine->modules) < PyDict_Size(theirs->modules)) {
        /* What the other tree has more of may carry hooks that see the whole state dict. */
        return unsupported_module(self, parent, "has fewer submodules than its counterpart");
    }
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *child = NULL;
    y5_status status = Y5_OK;
    while (status == Y5_OK && PyDict_Next(mine->modules, &position, &name, &child)) {
        if (child == Py_None) {
            continue;
        }
        status = check_name(self, name, parent);
        PyObject *other = NULL;
        if (status == Y5_OK && theirs->members != NULL) {
            other = PyDict_GetItemWithError(theirs->modules, name);
            status = other == NULL && PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_OK;
            other = other == Py_None ? NULL : other;
        }
        y5_path path = {parent, name};
        Py_INCREF(name);
        Py_INCREF(child);
        Py_XINCREF(other);
        if (status == Y5_OK) {
            status = walk_state(self, child, other, &path, depth + 1);
        }
        Py_XDECREF(other);
        Py_DECREF(child);
        Py_DECREF(name);
    }
    return status;
}

/* `source` is NULL below a module that the other tree lacks: every entry then has no counterpart.
 */
static y5_status
walk_state(walk *self, PyObject *average, PyObject *source, const y5_path *parent, int32_t depth)
{
    if (depth > MAX_DEPTH) {
        return unsupported_module(self, NULL, "modules nested too deeply, or in a circle");
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
    if (status == Y5_OK) {
        status = walk_children(self, &mine, &theirs, parent, depth);
    }
    close_module(&theirs);
    close_module(&mine);
    return status;
}

static void
forget_names(walk *self)
{
    for (size_t i = 0; i < KNOWN_NAMES; i++) {
        Py_CLEAR(self->known_names[i]);
    }
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
    y5_status status = walk_state(&self, average, source, NULL, 0);
    forget_names(&self);
    return status;
}

static y5_status
visit_parameters(walk *self, y5_address_set *seen, const node *opened, const y5_path *parent)
{
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *value = NULL;
    y5_status status = Y5_OK;
    while (status == Y5_OK && PyDict_Next(opened->parameters, &position, &name, &value)) {
        int is_new = value == Py_None ? 0 : y5_address_set_add(seen, value);
        if (is_new < 0) {
            return Y5_NO_MEMORY;
        }
        if (is_new > 0) {
            y5_path path = {parent, name};
            Py_INCREF(name);
            Py_INCREF(value);
            status = self->visit(self->context, value, NULL, &path, self->error);
            Py_DECREF(value);
            Py_DECREF(name);
        }
    }
    return status;
}

static y5_status
walk_parameters(walk *self, y5_address_set *seen, PyObject *module, const y5_path *parent,
                int32_t depth)
{
    int is_new = y5_address_set_add(seen, module);
    if (is_new <= 0) {
        return is_new == 0 ? Y5_OK : Y5_NO_MEMORY;
    }
    if (depth > MAX_DEPTH) {
        return unsupported_module(self, NULL, "modules nested too deeply");
    }
    node opened = {0};
    y5_status status = open_module(self, module, parent, &opened);
    if (status == Y5_OK) {
        status = visit_parameters(self, seen, &opened, parent);
    }
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *child = NULL;
    while (status == Y5_OK && PyDict_Next(opened.modules, &position, &name, &child)) {
        if (child != Py_None) {
            y5_path path = {parent, name};
            Py_INCREF(name);
            Py_INCREF(child);
            status = walk_parameters(self, seen, child, &path, depth + 1);
            Py_DECREF(child);
            Py_DECREF(name);
        }
    }
    close_module(&opened);
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
    y5_address_set seen = {0};
    y5_status status = walk_parameters(&self, &seen, module, NULL, 0);
    y5_address_set_free(&seen);
    return status;
}
