exports.handler = async (event) => {
  if (event === "fail") throw new RangeError("on purpose");
  return event;
};
