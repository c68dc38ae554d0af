"""Paste filter in the place of Keystone's: every request comes from one project's admin.

Roles, policy and everything behind them stay as shipped; only the token check is gone.
"""


def factory(global_conf, **local_conf):
    def wrap(app):
        def call(environ, start_response):
            environ.update(
                HTTP_X_IDENTITY_STATUS="Confirmed",
                HTTP_X_USER_ID="bench",
                HTTP_X_PROJECT_ID="bench",
                HTTP_X_ROLES="admin,member,reader",
            )
            return app(environ, start_response)

        return call

    return wrap
