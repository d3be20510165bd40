import helper


class Plugin:
    def call(self, method, payload):
        if method == "lazy":
            import lazy_b

            return lazy_b.NAME.encode()
        return helper.name().encode() + b" in twin_b"


def create_plugin():
    return Plugin()
