"""What people do with heroku3, against the node that HEROKU_HOST and HEROKU_API_KEY name. Prints a line a step."""

import os
import time

import heroku3

heroku3.api.HEROKU_URL = os.environ["HEROKU_HOST"]
heroku = heroku3.from_key(os.environ["HEROKU_API_KEY"])
print("account", heroku.account().email)
print("requests left", heroku.ratelimit_remaining() > 0)

app = heroku.create_app(name="pythonic", stack_id_or_name="heroku-24")
print("created", app.name, "on", app.stack.name)
print("listed", [one.name for one in heroku.apps(order_by="name")])

config = app.config()
config["COLOUR"] = "green"
config.update({"SHAPE": "round", "SIZE": "small"})
del config["SIZE"]
print("config", app.config().to_dict())
print("releases", [(release.version, release.description) for release in app.releases()])
print("newest", [release.version for release in app.releases(order_by="version", limit=1, sort="desc")])
app.rollback("v3")
print("after the rollback", app.config().to_dict())

app.enable_maintenance_mode()
print("maintenance", heroku.app("pythonic").maintenance)
app.disable_maintenance_mode()
print("maintenance", heroku.app("pythonic").maintenance)

print("dynos", [dyno.name for dyno in app.dynos()], "types", [one.type for one in app.process_formation()])
for _ in range(600):
    log = app.get_log(lines=20)
    if "rollback" in log.lower():
        break
    time.sleep(0.1)
print("log", [line.split("app[api]: ")[1] for line in log.splitlines() if "Rollback" in line])
print("collaborators", [one.user.email for one in app.collaborators()])
print("domains", len(app.domains()))

app.rename("snake")
print("renamed", heroku.app("snake").name)
heroku.app("snake").delete()
print("listed", [one.name for one in heroku.apps()])
