// Runs a command of npm's heroku-builds as the CLI did that loaded such plugins: heroku_builds.js TOOLS COMMAND -a APP ...
const [tools, name, ...words] = process.argv.slice(2);
const { commands } = require(`${tools}/heroku-builds/node_modules/heroku-builds`);

const command = commands.find((one) => name === [one.topic, one.command].filter(Boolean).join(':'));
const context = { app: null, args: {}, flags: {}, supportsColor: false };
const args = (command.args || []).map((one) => one.name);
while (words.length > 0) {
  const word = words.shift();
  const flag = (command.flags || []).find((one) => word === `--${one.name}` || word === `-${one.char}`);
  if (word === '-a') context.app = words.shift();
  else if (flag) context.flags[flag.name] = flag.hasValue ? words.shift() : true;
  else context.args[args.shift()] = word;
}
command.run(context);
